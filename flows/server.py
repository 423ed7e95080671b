"""A Prefect server of our own: on the loopback and SQLite by default, silent, and gone when we are gone.

Prefect would start a temporary server by itself, but one that shares our Ctrl-C (so the run's last words find
nobody and end in tracebacks) and that outlives us when we are killed.
"""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.access import (
    DATABASE,
    SERVER_AUTH,
    SERVER_SECRETS,
    ServerError,
    check_host,
    credentials,
    database_url,
    local_address,
)
from stemma.core.files import write_json

START_SECONDS = 300.0  # a new database on two busy cores; a few seconds is usual, and a death is seen at once
STOP_SECONDS = 10.0
HOST = "127.0.0.1"
RECORD = "stemma-server.json"


def start_child(
    module: str, arguments: list[str], log: Path, environment: Mapping[str, str], trusted: bool = False
) -> "subprocess.Popen[bytes]":
    """Start ``python -m module`` in a session of its own, tied to this process, output to a file.

    Args:
        module: what to run.
        arguments: for it; no secrets, since everybody can read them.
        log: takes its output.
        environment: on top of this process's own.
        trusted: it may know what only the server needs (``SERVER_SECRETS``).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if trusted or name not in SERVER_SECRETS}
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.child", str(os.getpid()), module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **environment},
            start_new_session=True,
        )


def stop_child(child: "subprocess.Popen[bytes]", seconds: float = STOP_SECONDS) -> None:
    """Ask a child to end; insist after some seconds."""
    child.terminate()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def check_address(host: str, port: int) -> None:
    """See whether this process could listen on a port (0: any) of an address.

    Raises:
        ServerError: it could not; says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what = (
                    f"port {port} of {host} is taken. Stop what listens there, or choose another with --port"
                )
            else:
                what = (
                    f"nothing can listen on port {port} of {host}: {error.strerror}. --host has to be an "
                    "address of this machine"
                )
            raise ServerError(what) from error


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_healthy(url: str) -> bool:
    """Whether a Prefect server answers at ``url`` (which ends in ``/api``)."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def running(home: Path) -> str:
    """URL of the server that ``stemma ui`` runs on this home folder, or ""."""
    try:
        url = json.loads((home / RECORD).read_text())["url"]
    except (OSError, ValueError, KeyError):
        return ""
    return url if is_healthy(url) else ""


@dataclass(frozen=True)
class Server:
    """A server as it is to be started, again on the same port if it dies.

    Attributes:
        url: of its API, as this machine reaches it.
        home: Prefect's home folder; holds the database and ``server.log``.
        arguments: of uvicorn.
        environment: of the process.
        ui: it is the one that ``running`` finds.
    """

    url: str
    home: Path
    arguments: list[str]
    environment: dict[str, str]
    ui: bool

    @property
    def log(self) -> Path:
        """What it writes."""
        return self.home / "server.log"

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it and wait until it answers.

        Raises:
            ServerError: it did not; holds the end of its log.
        """
        child = start_child("uvicorn", self.arguments, self.log, self.environment, trusted=True)
        try:
            _wait(child, self.url, self.log)
            if self.ui:
                write_json(self.home / RECORD, {"url": self.url, "pid": child.pid})
        except BaseException:
            self.stop(child)
            raise
        return child

    def stop(self, child: "subprocess.Popen[bytes]") -> None:
        """End what ``start`` returned."""
        if self.ui:
            (self.home / RECORD).unlink(missing_ok=True)
        stop_child(child)


def server(home: Path, port: int = 0, ui: bool = False, host: str = HOST, database: str = "") -> Server:
    """A server on a home folder, not yet started.

    Args:
        home: Prefect's home folder.
        port: 0 takes any free one.
        ui: serve the UI and run the scheduler; without, only what recording a run needs.
        host: the address to listen on.
        database: of PostgreSQL, without a password; by default what the environment says, else SQLite.

    Raises:
        ServerError: the port is taken, the address is not this machine's, or other machines could come in
            without a password.
    """
    given = credentials(home)
    check_host(host, given)
    check_address(host, port)
    port = port or free_port()
    url = f"http://{local_address(host)}:{port}/api"
    arguments = ["--factory", "flows.app:create", "--lifespan", "on", "--host", host, "--port", str(port)]
    arguments += ["--log-level", "error", "--timeout-graceful-shutdown", "3"]
    environment = settings(url, ui)
    if given:
        environment[SERVER_AUTH] = given
    if database:
        environment[DATABASE] = database_url(database)
    return Server(url, home, arguments, environment, ui)


@contextlib.contextmanager
def serving(
    home: Path, port: int = 0, ui: bool = False, host: str = HOST, database: str = ""
) -> Iterator[str]:
    """Run a server while the context lasts; yields its API's URL.

    Arguments and errors are those of ``server`` and of ``Server.start``.
    """
    described = server(home, port, ui, host, database)
    child = described.start()
    try:
        yield described.url
    finally:
        described.stop(child)


def settings(url: str, ui: bool) -> dict[str, str]:
    """The environment of a server at ``url``."""
    preferred = {
        # Pages ask the address they came from: that of a tunnel or of a proxy, too.
        "PREFECT_UI_API_URL": "/api",
        # No other site's pages may read our answers. (An empty list would mean Prefect's default: all may.)
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url.removesuffix("/api"),
        # SQLite has one writer; who waits for it longer than this fails with "database is locked".
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    }
    chosen = {
        "PREFECT_API_URL": url,
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_UI_ENABLED": str(int(ui)),
        **{name: os.environ.get(name, value) for name, value in preferred.items()},
    }
    if not ui:
        # Registering every block type takes half of the start, and a run needs none.
        chosen |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false"}
    return chosen


def _wait(child: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(url):
        if child.poll() is not None or time.monotonic() > deadline:
            what = f"ended with code {child.returncode}" if child.poll() is not None else "did not answer"
            end = "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
            raise ServerError(f"the Prefect server {what} at {url}\n{end}\nThe whole log: {log}")
        time.sleep(0.1)
