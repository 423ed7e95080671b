"""``stemma ui``: Prefect's server and UI, a worker, and every deployment, until Ctrl-C."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from flows.access import AUTH_FILE, credentials
from flows.environment import HOME_FOLDER, prepare
from flows.server import HOST, ServerError, running, serving, start_child, stop_child

WORKER_STOP_SECONDS = 60.0  # a training stage writes a checkpoint before it goes


def serve(
    root: Path,
    port: int = 4200,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
    host: str = HOST,
    database: str = "",
    auth: bool = False,
) -> None:
    """Serve the UI and run what it asks for, until Ctrl-C or SIGTERM.

    Args:
        root: the folder of runs; its ``prefect`` folder holds the history, which the demo writes too.
        port: port of the server.
        say: receives the lines for the person who started it.
        stop: ends it when set, for callers that are no terminal.
        host: address to listen on; other machines are let in only where there is a password.
        database: ``postgresql://user@host/name``; SQLite by default.
        auth: ask for a password; one is made up if there is none yet.

    Raises:
        ServerError: the port is taken, a UI already runs on this folder, or a process did not start.
    """
    if auth:
        credentials(Path(os.environ.get("PREFECT_HOME") or root.absolute() / HOME_FOLDER), make=True)
    home = prepare(root)
    if url := running(home):
        raise ServerError(f"a UI already runs on {home}: open {_page(url)}, or stop it first")
    stop = stop or threading.Event()
    say("starting the server (a few seconds)")
    with serving(home, port, True, host, database) as url, _until_signal(stop):
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: url}):
            from flows.deployments import POOL, register
            from flows.orphans import bury

            bury()
            names = register(root, say)
            with _worker(POOL, home, url) as worker:
                say(f"open {_page(url)} to start, watch and resume runs")
                if (home / AUTH_FILE).exists():
                    say(f"user and password: {home / AUTH_FILE}")
                say(f"deployments: {', '.join(names)}; history and logs: {home}; Ctrl-C stops everything")
                while not stop.wait(0.5):
                    if worker.poll() is not None:
                        log = home / "worker.log"
                        raise ServerError(f"the worker ended with code {worker.returncode}; see {log}")
                say("stopping; a stage that is training writes a checkpoint first")


def _page(url: str) -> str:
    return url.removesuffix("/api")


@contextlib.contextmanager
def _until_signal(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set ``stop``, so that everything ends in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _worker(pool: str, home: Path, url: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A worker of the pool; when the context ends, its flow runs are asked to stop, then it is."""
    arguments = ["worker", "start", "--pool", pool, "--type", "process", "--name", f"stemma-{os.getpid()}"]
    worker = start_child("prefect", arguments, home / "worker.log", {"PREFECT_API_URL": url})
    try:
        yield worker
    finally:
        _stop_runs(worker)
        stop_child(worker, WORKER_STOP_SECONDS)


def _stop_runs(worker: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the flow runs' processes; each leaves a checkpoint and ends. Insist after a minute."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        runs = psutil.Process(worker.pid).children()
        for run in runs:
            with contextlib.suppress(psutil.NoSuchProcess):
                run.terminate()
        _, stubborn = psutil.wait_procs(runs, WORKER_STOP_SECONDS)
        for run in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                run.kill()
