"""``stemma ui``: Prefect's server and UI, a worker, and every deployment, until Ctrl-C."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from flows.access import AUTH_FILE, credentials
from flows.environment import HOME_FOLDER, prepare
from flows.keeper import Keeper
from flows.server import HOST, ServerError, running, server, start_child
from pretrain.heartbeat import lives
from pretrain.supervisor import GRACE_SECONDS

WORKER_LOG = "worker.log"
LOOK_SECONDS = 0.5
BURY_SECONDS = 15.0
STOP_RUNS_SECONDS = GRACE_SECONDS + 60.0  # a large model's checkpoint takes its time


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
    described = server(home, port, True, host, database)
    asked = Asked(stop or threading.Event())
    say("starting the server (a few seconds)")
    kept = Keeper("server", described.start, described.log, say)
    try:
        with asked.by_signals():
            _serve(root, described.url, home, kept, asked, say)
    finally:
        described.stop(kept.child)


def _serve(
    root: Path, url: str, home: Path, kept: Keeper, asked: "Asked", say: Callable[[str], None]
) -> None:
    """Register everything at the server and keep a worker until asked to stop."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        from flows.automations import set_up
        from flows.deployments import POOL, register
        from flows.orphans import bury

        bury()
        names = register(root, say)
        set_up()
        worker = Keeper("worker", lambda: _start_worker(POOL, home, url), home / WORKER_LOG, say)
        try:
            say(f"open {_page(url)} to start, watch and resume runs")
            if (home / AUTH_FILE).exists():
                say(f"user and password: {home / AUTH_FILE}")
            say(f"deployments: {', '.join(names)}; history and logs: {home}; Ctrl-C stops everything")
            looked = time.monotonic()
            while not asked.stop.wait(LOOK_SECONDS):
                kept.look()
                worker.look()
                if time.monotonic() - looked > BURY_SECONDS:
                    looked = time.monotonic()
                    _bury(bury, say)
        finally:
            stop_worker(worker.child, asked.insist, kept.look, say)
            _bury(bury, say)


def _bury(bury: Callable[[], int], say: Callable[[str], None]) -> None:
    """Record runs whose process is gone, if the server answers; the next look comes soon."""
    import httpx

    try:
        if buried := bury():
            say(f"{buried} of the runs had lost their process and count as crashed; Retry continues them")
    except httpx.HTTPError as error:
        say(f"the server does not answer ({type(error).__name__}); looking again in {BURY_SECONDS:.0f} s")


def _page(url: str) -> str:
    return url.removesuffix("/api")


class Asked:
    """What the person at the terminal wants.

    Attributes:
        stop: end everything in good order.
        insist: do not wait for checkpoints.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.insist = threading.Event()

    @contextlib.contextmanager
    def by_signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM set ``stop``, and a second one ``insist``."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            (self.insist if self.stop.is_set() else self.stop).set()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _start_worker(pool: str, home: Path, url: str) -> "subprocess.Popen[bytes]":
    # One name for all workers of a machine, or the UI would list every one there ever was.
    name = f"stemma@{socket.gethostname()}"
    arguments = ["worker", "start", "--pool", pool, "--type", "process", "--name", name]
    return start_child("prefect", arguments, home / WORKER_LOG, {"PREFECT_API_URL": url})


def stop_worker(
    worker: "subprocess.Popen[bytes]",
    insist: threading.Event,
    meanwhile: Callable[[], object],
    say: Callable[[str], None],
) -> None:
    """End a worker and what it runs; what trains writes a checkpoint first.

    The worker is frozen meanwhile: awake it would start the next run that waits in the queue.

    Args:
        worker: the process.
        insist: set from outside: do not wait any longer.
        meanwhile: called again and again while waiting.
        say: tells people.
    """
    import psutil

    try:
        process = psutil.Process(worker.pid)
        process.suspend()
        guards = process.children()
    except psutil.NoSuchProcess:
        return
    for guard in guards:
        with contextlib.suppress(psutil.NoSuchProcess):
            guard.terminate()
    if waiting := [guard for guard in guards if lives(guard)]:
        say(f"stopping {len(waiting)} run(s); what trains writes a checkpoint first (Ctrl-C: do not wait)")
    deadline = time.monotonic() + STOP_RUNS_SECONDS
    while any(map(lives, guards)) and time.monotonic() < deadline and not insist.wait(LOOK_SECONDS):
        meanwhile()
    for guard in filter(lives, guards):
        with contextlib.suppress(psutil.NoSuchProcess):
            for flow in guard.children():
                flow.kill()  # what it trains is tied to it
            guard.kill()
    worker.kill()
    worker.wait()
