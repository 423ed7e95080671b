"""Who is let in, and what is told to whom."""

import json
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest

from flows.access import (
    AUTH_FILE,
    CLIENT_AUTH,
    DATABASE,
    SERVER_AUTH,
    ServerError,
    check_host,
    credentials,
    database_url,
    local_address,
    remember,
)
from flows.app import is_ours
from flows.environment import RUNS_VARIABLE, prepare
from flows.server import serving, start_child

SECRET = "keeper:correct-horse"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.0.1"])
def test_the_loopback_needs_no_password(host) -> None:
    check_host(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_other_addresses_are_refused_without_a_password(host) -> None:
    with pytest.raises(ServerError, match=r"--auth"):
        check_host(host, "")
    check_host(host, SECRET)


def test_a_refused_address_starts_nothing(home, tmp_path) -> None:
    with pytest.raises(ServerError, match=r"lets other machines in"), serving(tmp_path, host="0.0.0.0"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_not_called_taken(home, tmp_path, monkeypatch, host) -> None:
    monkeypatch.setenv(SERVER_AUTH, SECRET)
    with pytest.raises(ServerError, match=r"an address of this machine"), serving(tmp_path, 4299, host=host):
        pass


def test_no_proxy_hears_what_is_said_on_this_machine(home, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", RUNS_VARIABLE, "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # and put back afterwards
    prepare(tmp_path)
    for host in ("127.0.0.1:4200", "localhost:4200"):
        assert urllib.request.proxy_bypass(host), host
    monkeypatch.setenv("no_proxy", "db.example.org")
    for _ in range(2):
        prepare(tmp_path)
    assert os.environ["NO_PROXY"] == "db.example.org,127.0.0.1,localhost,::1"


def test_passwords_are_made_up_once_and_only_their_owner_reads_them(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(SERVER_AUTH, raising=False)
    monkeypatch.delenv(CLIENT_AUTH, raising=False)
    assert credentials(tmp_path) == ""
    remember(tmp_path)
    assert CLIENT_AUTH not in os.environ
    made = credentials(tmp_path, make=True)
    assert credentials(tmp_path) == credentials(tmp_path, make=True) == made
    assert len(made.partition(":")[2]) >= 20
    assert stat.S_IMODE((tmp_path / AUTH_FILE).stat().st_mode) == 0o600
    remember(tmp_path)
    assert os.environ[CLIENT_AUTH] == made
    monkeypatch.setenv(SERVER_AUTH, SECRET)
    assert credentials(tmp_path) == SECRET, "the environment decides"
    for bad in ("no-colon-at-all", "user:short", ":no-user-at-all"):
        monkeypatch.setenv(SERVER_AUTH, bad)
        with pytest.raises(ServerError, match="user:password") as refused:
            credentials(tmp_path)
        assert bad not in str(refused.value)
    monkeypatch.delenv(SERVER_AUTH)
    for left in (b"", b"\xff\xff"):  # a full disk, another program
        (tmp_path / AUTH_FILE).write_bytes(left)
        for make in (False, True):
            with pytest.raises(ServerError, match=str(tmp_path / AUTH_FILE)):
                credentials(tmp_path, make)


def test_a_database_is_named_without_its_password() -> None:
    assert database_url("postgresql://me@db:5432/prefect") == "postgresql+asyncpg://me@db:5432/prefect"
    assert database_url("postgresql+asyncpg://me@/p?host=/run") == "postgresql+asyncpg://me@/p?host=/run"
    with pytest.raises(ServerError, match=r"pgpass|PGPASSWORD") as refused:
        database_url("postgresql://me:hunter22@db/prefect")
    assert "hunter22" not in str(refused.value)
    for other in ("mysql://me@db/prefect", "db/prefect", "sqlite:///x"):
        with pytest.raises(ServerError, match="postgresql://user@host"):
            database_url(other)


def test_addresses_as_this_machine_reaches_them() -> None:
    assert [local_address(host) for host in ("0.0.0.0", "::", "::1", "10.0.0.7")] == [
        "127.0.0.1",
        "[::1]",
        "[::1]",
        "10.0.0.7",
    ]


@pytest.mark.parametrize(
    ("host", "origin", "ours"),
    [
        ("127.0.0.1:4200", None, True),
        ("localhost:4200", "http://localhost:4200", True),
        ("[::1]:4200", "http://[::1]:4200", True),
        ("127.0.0.1:4200", "http://127.0.0.1:8080", False),  # another server on this machine
        ("127.0.0.1:4200", "https://example.org", False),
        ("127.0.0.1:4200", "null", False),  # a sandboxed frame, a file
        ("example.org:4200", "http://example.org:4200", False),  # a name that points to the loopback
        ("example.org", None, False),
        ("", None, False),
    ],
)
def test_which_requests_are_ours(host, origin, ours) -> None:
    headers = [(b"Host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    assert is_ours(headers) is ours


def test_only_the_server_is_told_its_secrets(tmp_path, monkeypatch) -> None:
    (tmp_path / "say.py").write_text("import json, os; print(json.dumps(dict(os.environ)))")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv(SERVER_AUTH, SECRET)
    monkeypatch.setenv(DATABASE, "postgresql+asyncpg://me:hunter22@db/prefect")
    told = {}
    for trusted in (False, True):
        log = tmp_path / f"{trusted}.log"
        assert start_child("say", [], log, {"ADDED": "1"}, trusted=trusted).wait(60) == 0
        told[trusted] = json.loads(log.read_text())
        assert told[trusted]["ADDED"] == "1"
    assert SERVER_AUTH not in told[False]
    assert DATABASE not in told[False]
    assert told[True][SERVER_AUTH] == SECRET


def ask(url: str, headers: dict[str, str], data: bytes | None = None) -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers, data=data)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


def test_a_page_of_elsewhere_cannot_use_the_server(server) -> None:
    count = f"{server}/flow_runs/count"
    status, answered = ask(count, {}, b"{}")
    assert (status, answered["x-frame-options"]) == (200, "DENY")
    for headers in ({"Origin": "https://example.org"}, {"Host": "example.org"}):
        status, answered = ask(count, headers, b"{}")
        assert status == 403
        assert not any(name.lower().startswith("access-control") for name in answered)


CLIENT = """
import sys
from pathlib import Path
from flows.environment import prepare
prepare(Path(sys.argv[1]))
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(client.count_flow_runs())
"""


def test_a_server_with_a_password_asks_everybody_for_it(home, tmp_path, monkeypatch) -> None:
    """Refused without it, let in with it; and it is nowhere to be seen."""
    folder = tmp_path / "prefect"
    monkeypatch.delenv(CLIENT_AUTH, raising=False)
    made = credentials(folder, make=True)
    password = made.partition(":")[2]
    with serving(folder) as url:
        count = f"{url}/flow_runs/count"
        assert ask(count, {}, b"{}")[0] == 401
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
        client = [sys.executable, "-c", CLIENT, str(tmp_path)]
        done = subprocess.run(
            client, env={**environment, "PREFECT_API_URL": url}, capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "0", done.stderr
        started = [process.cmdline() for process in psutil.Process().children(recursive=True)]
        assert any("flows.app:create" in arguments for arguments in started)
        assert not any(password in argument for arguments in started for argument in arguments)
    for file in folder.rglob("*.log"):
        assert password not in file.read_text(errors="replace")


UIS = """
from fastapi.testclient import TestClient
from flows.app import create
client = TestClient(create(), base_url="http://127.0.0.1:1")
print(client.get("/ui-settings").json()["available_uis"])
"""


def test_the_ui_that_asks_an_analytics_host_is_not_offered(home, tmp_path) -> None:
    environment = {**os.environ, "PREFECT_UI_ENABLED": "1", "PREFECT_UI_STATIC_DIRECTORY": str(tmp_path)}
    environment.pop(SERVER_AUTH, None)
    done = subprocess.run(
        [sys.executable, "-c", UIS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "['v1']", done.stderr
