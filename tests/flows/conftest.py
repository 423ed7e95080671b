"""One Prefect server for the tests of this room, on a home folder of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


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
        os.environ["PREFECT_API_URL"] = url
        yield url
        del os.environ["PREFECT_API_URL"]


@pytest.fixture
def client(server: str) -> Iterator["object"]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as made:
        yield made
