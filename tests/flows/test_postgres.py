"""Eight flow runs at once, on PostgreSQL and on SQLite: nothing is lost, nobody finds the database locked."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.access import DATABASE
from flows.server import free_port, serving

PROGRAMS = ("initdb", "postgres", "psql")
RUNS, PROCESSES = 8, 2
PASSWORD = "a-password-for-tests"
# A process per run would be eight times three seconds of imports; what reaches the server is the same.
BURST = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
root, first, runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
from toy_flow import toy
with ThreadPoolExecutor(runs) as pool:
    list(pool.map(lambda number: toy(str(root / f"run{number}")), range(first, first + runs)))
"""


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL of our own.

    Attributes:
        url: of its empty database, without the password.
        log: its log.
    """

    url: str
    log: Path


@pytest.fixture
def postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """PostgreSQL asks for a password and listens on the loopback; it refuses to be run by root."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"needs PostgreSQL: {', '.join(missing)} not found")
    # Not below tmp_path: nobody but its owner can enter that.
    folder, log, port = (
        Path(tempfile.mkdtemp(prefix="stemma-postgres-")),
        tmp_path / "postgres.log",
        free_port(),
    )
    asked = folder / "password"
    asked.write_text(PASSWORD)
    data = folder / "data"
    other = {}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        os.chown(asked, nobody.pw_uid, nobody.pw_gid)
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    initdb = ["initdb", "-D", str(data), "-U", "me", "-A", "scram-sha-256", f"--pwfile={asked}", "-N"]
    subprocess.run([*initdb, "-E", "UTF8"], check=True, capture_output=True, cwd=folder, **other)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    arguments = [f"-c{name}={value}" for name, value in settings.items()]
    with open(log, "wb") as output:
        server = subprocess.Popen(
            ["postgres", "-D", str(data), *arguments], stdout=output, stderr=output, cwd=folder, **other
        )
    try:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        create = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "me", "-c", "create database prefect"]
        deadline = time.monotonic() + 60
        while subprocess.run([*create, "postgres"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Postgres(f"postgresql://me@127.0.0.1:{port}/prefect", log)
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering every type of block takes half of a server's start, and no run here needs one."""
    monkeypatch.setenv("PREFECT_SERVER_REGISTER_BLOCKS_ON_START", "false")


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_eight_runs_at_once_on_postgresql(home, tmp_path, postgres, monkeypatch) -> None:
    monkeypatch.delenv(DATABASE, raising=False)
    folder = tmp_path / "prefect"
    with serving(folder, ui=True, database=postgres.url) as url:
        burst(url, tmp_path)
        check(url, folder)
    assert not list(folder.glob("*.db")), "SQLite was used after all"
    for file in folder.rglob("*.log"):
        assert PASSWORD not in file.read_text(errors="replace")
    assert "deadlock" not in postgres.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_runs_at_once_on_sqlite(home, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "prefect"
    folder.mkdir()
    monkeypatch.setenv("PREFECT_HOME", str(folder))  # where the database is
    with serving(folder, ui=True) as url:
        burst(url, tmp_path)
        check(url, folder)
    assert (folder / "prefect.db").exists()


def burst(url: str, root: Path) -> None:
    each = RUNS // PROCESSES
    going = [
        subprocess.Popen(
            [sys.executable, "-c", BURST, str(root), str(first), str(each)],
            env={**os.environ, "PREFECT_API_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for first in range(0, RUNS, each)
    ]
    for process in going:
        out, _ = process.communicate(timeout=400)
        assert process.returncode == 0, out


def check(url: str, folder: Path) -> None:
    """What eight runs of the toy leave behind, to the last task and artifact."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from test_pipeline_flow import artifacts, task_states

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        assert [run.state_name for run in runs] == ["Completed"] * RUNS
        for run in runs:
            deadline = time.monotonic() + 60  # the server learns of the ends of tasks from events
            while set(states := task_states(client, run)) and set(states.values()) != {"Completed"}:
                assert time.monotonic() < deadline, states
                time.sleep(0.2)
            assert len(states) == 3
            assert {"report-toy", "progress-first", "mix-third"} <= set(artifacts(client, run))
    log = (folder / "server.log").read_text(errors="replace")
    assert "locked" not in log
    assert "Traceback" not in log
