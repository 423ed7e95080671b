"""A Prefect server of our own: on the loopback, on SQLite, silent, and gone when we are gone.

Prefect would start a temporary server by itself, but one that shares our Ctrl-C (so the run's last words find
nobody and end in tracebacks) and that outlives us when we are killed.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from stemma.core.errors import StemmaError
from stemma.core.files import write_json

START_SECONDS = 120.0  # a cold disk and two busy cores; a few seconds is usual
STOP_SECONDS = 10.0
HOST = "127.0.0.1"
RECORD = "stemma-server.json"


class ServerError(StemmaError):
    """The Prefect server cannot be started or reached."""


def start_child(
    module: str, arguments: list[str], log: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start ``python -m module`` in a session of its own, tied to this process, output to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.child", str(os.getpid()), module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
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


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


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


@contextlib.contextmanager
def serving(home: Path, port: int = 0, ui: bool = False) -> Iterator[str]:
    """Run a server on a home folder while the context lasts; yields its API's URL.

    Args:
        home: Prefect's home folder; holds the database and ``server.log``.
        port: 0 takes any free one.
        ui: serve the UI and run the scheduler; without, only what recording a run needs.

    Raises:
        ServerError: the port is taken, or the server did not start; holds the end of its log.
    """
    if port and not is_free(port):
        raise ServerError(
            f"port {port} of {HOST} is taken. Stop what listens there, or choose another with --port."
        )
    port = port or free_port()
    url = f"http://{HOST}:{port}/api"
    environment = {"PREFECT_API_URL": url, "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": str(int(ui))}
    if not ui:
        # Registering every block type takes half of the start, and a run needs none.
        environment |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false"}
    factory = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on"]
    address = [
        "--host",
        HOST,
        "--port",
        str(port),
        "--log-level",
        "error",
        "--timeout-graceful-shutdown",
        "3",
    ]
    log = home / "server.log"
    child = start_child("uvicorn", [*factory, *address], log, environment)
    try:
        _wait(child, url, log)
        if ui:
            write_json(home / RECORD, {"url": url, "pid": child.pid})
        yield url
    finally:
        if ui:
            (home / RECORD).unlink(missing_ok=True)
        stop_child(child)


def _wait(child: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(url):
        if child.poll() is not None or time.monotonic() > deadline:
            what = f"ended with code {child.returncode}" if child.poll() is not None else "did not answer"
            end = "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
            raise ServerError(f"the Prefect server {what} at {url}\n{end}\nThe whole log: {log}")
        time.sleep(0.1)
