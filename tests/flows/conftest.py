"""One Prefect server for the tests of this room, on a home folder of its own."""

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BLANK = "blank.db"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prefect's environment, prepared before Prefect is imported; taken back afterwards."""
    from flows.environment import prepare

    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), before.get("PYTHONPATH", "")]))
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    sys.path.insert(0, str(HERE))  # stages are found by module name
    yield prepare(tmp_path_factory.mktemp("runs"))
    sys.path.remove(str(HERE))
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[str]:
    """The URL of a running server; ``run_pipeline`` uses it."""
    from flows.server import serving

    with serving(home) as url:
        with (
            contextlib.closing(sqlite3.connect(home / "prefect.db")) as made,
            contextlib.closing(sqlite3.connect(home / BLANK)) as blank,
        ):
            made.backup(blank)
        os.environ["PREFECT_API_URL"] = url
        yield url
        del os.environ["PREFECT_API_URL"]


@pytest.fixture
def migrated(server: str, home: Path) -> Callable[[Path], None]:
    """Gives a folder of runs an empty database: a new one takes a server ten seconds of migrations."""

    def give(root: Path) -> None:
        (root / "prefect").mkdir(parents=True)
        shutil.copy(home / BLANK, root / "prefect" / "prefect.db")

    return give


@pytest.fixture
def client(server: str) -> Iterator["object"]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # The heartbeat's thread takes every flow run of this process a second to join.
    settings = {PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(settings), get_client(sync_client=True) as made:
        yield made
