"""``run_pipeline``: a walk over the pipeline as a Prefect flow in this process, without a standing server."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.access import ServerError
from flows.environment import prepare
from flows.keeper import Keeper
from flows.server import running, server
from stemma.core.progress import Listener, Progress

if TYPE_CHECKING:
    from stemma.pipeline import Run

FLUSH_SECONDS = 10.0
LOOK_SECONDS = 0.5  # between looks at the server


def run_pipeline(
    walk: "Run", stop_after: str = "", listeners: Sequence[Listener] = (), group: str = ""
) -> None:
    """Make a run's nodes in order, each as a task of a flow; what is there is only verified.

    The flow run is recorded below ``<root>/prefect`` (or where ``PREFECT_HOME`` says), by the server of
    ``stemma ui`` if one is running on it, else by a server that lasts as long as this call.
    ``PREFECT_API_URL`` names another one.

    Args:
        walk: the run; its artifacts are filled in.
        stop_after: the last node to make; all by default.
        listeners: receive progress events, besides the walk's own.
        group: a stage group, whose flow it is then; by default the whole chain's.

    Raises:
        StemmaError: whatever a stage raised, or a node name that does not exist.
    """
    order = walk.order(stop_after, group)  # refuse a wrong name before anything starts
    home = prepare(walk.store.root)
    # The terminal belongs to our own listeners; Prefect keeps the log lines in its database.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    walk.listeners.extend(listeners)
    try:
        with _server(home, Progress("server", walk.listeners).say) as url:
            _run(walk, order[-1], url, group or "pipeline")
    finally:
        for listener in listeners:
            walk.listeners.remove(listener)


@contextlib.contextmanager
def _server(home: Path, say: Callable[[str], None]) -> Iterator[str]:
    """The server of ``stemma ui``, or one of our own, which is started again when it dies meanwhile."""
    if url := os.environ.get("PREFECT_API_URL") or running(home):
        yield url
        return
    described = server(home)
    keeper = Keeper("Prefect server", described.start, described.log, say)
    over = threading.Event()

    def keep() -> None:
        try:
            while not over.wait(LOOK_SECONDS):
                keeper.look()
        except ServerError as error:  # it dies again and again: the run has to do without
            say(str(error))
        over.wait()  # to the kernel this thread may be the server's parent, and it dies with that
        described.stop(keeper.child)

    thread = threading.Thread(target=keep, name="server-keeper")
    thread.start()
    try:
        yield described.url
    finally:
        over.set()
        thread.join()


def _run(walk: "Run", last: str, url: str, flow: str) -> None:
    from prefect import tags
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows import stages
    from flows.orphans import TERMINAL, bury
    from flows.request import given_walk

    # The heartbeat's thread takes a second to join, and nobody listens to it here.
    with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        bury()
        token = given_walk.set(walk)
        try:
            with tags(TERMINAL):
                asked = {"root": str(walk.store.root), "stop_after": last, "run": walk.name, **walk.asked}
                if walk.branch:
                    asked |= {"start_from": walk.branch.start, "from_run": walk.branch.from_run}
                state = getattr(stages, flow)(**asked, return_state=True)
            _settle(state.state_details.flow_run_id)
        finally:
            given_walk.reset(token)
            _drain()
        state.result()


def _drain() -> None:
    """Send what still waits in Prefect's queues; once the server is gone they would complain at exit."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=FLUSH_SECONDS, at_exit=False)
    APILogWorker.drain_all(timeout=FLUSH_SECONDS, at_exit=False)


def _settle(flow_run: Any) -> None:
    """Wait until the server knows how the run's tasks ended; it learns that from events, a little late."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    deadline = time.monotonic() + FLUSH_SECONDS
    with get_client(sync_client=True) as client:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        while time.monotonic() < deadline:
            runs = client.read_task_runs(flow_run_filter=only)
            if all(run.state and run.state.is_final() for run in runs):
                return
            time.sleep(0.1)
