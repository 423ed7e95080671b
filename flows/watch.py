"""A flow run looks after its own state: what the server says of it is right, whatever happens to the server.

Prefect's client gives up on a server that is away for long, its worker stops listening for cancellations
then, and an automation may take a run for dead whose signs of life nobody received. So a run that a worker
started looks at its own state from time to time, and at its end waits for the server and repairs what it
says of its tasks.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Abort, ObjectNotFound, TerminationSignal
from prefect.states import Cancelled, Completed, Crashed, Running, State

from flows import line
from flows.line import Reason
from flows.orphans import is_ours
from stemma.core.errors import Preempted

LOOK_SECONDS = 10.0
UNHEARD_SECONDS = 20.0  # for the worker to bring the message; nobody does after that
SERVER_SECONDS = 900.0  # to wait for a server that is away when all is made
LEAVING_SECONDS = 20.0  # the same when asked to stop: the server may be gone with the worker
SETTLE_SECONDS = 10.0  # the server learns of the ends of tasks from events, a little late

WAITING = (StateType.SCHEDULED, StateType.PENDING, StateType.PAUSED)  # for a process that is not there yet
SAID = {
    Reason.STOP: "Stopped as asked.",
    Reason.CANCEL: "Cancelled.",
    Reason.SUSPEND: "Suspended.",
    Reason.TAKEN: "Another process goes on with it.",
    Reason.WORKER: "Its worker is gone.",
    Reason.GUARD: "Its process was killed.",
}
GO_ON = "Retry continues it; a stage that was training goes on from its last checkpoint."
Answer = TypeVar("Answer")
Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Look after the flow run of this process while the context lasts, if a worker started it."""
    if not line.is_held():
        yield
        return
    flow_run, logger = UUID(str(runtime.flow_run.id)), get_run_logger()
    over = threading.Event()
    context = contextvars.copy_context()
    watcher = threading.Thread(
        target=context.run, args=(_look_on, flow_run, over, logger), name="watch", daemon=True
    )
    watcher.start()
    done = False
    try:
        yield
        done = True
    finally:
        over.set()
        _settle(flow_run, done, logger)


def stopped(error: BaseException) -> State[Any] | None:
    """The state that a run or task ends in which was asked to stop; None if that is not why it ended.

    Args:
        error: what ended it.
    """
    reason = line.asked()
    if isinstance(error, Preempted):
        text = str(error)
    elif isinstance(error, TerminationSignal) and reason is not None:
        text = f"{SAID[reason]} {GO_ON}"
    else:
        return None
    if reason in (Reason.WORKER, Reason.GUARD):
        return Crashed(message=text if text.startswith(SAID[reason]) else f"{SAID[reason]} {text}")
    # Not a failure, wherever it was asked. A terminal gets the exception back out of the state.
    return Cancelled(message=text, data=error if isinstance(error, Preempted) else None)


def let_be(flow_run: UUID) -> None:
    """Return if the state of a flow run is for this process to say, which was asked to stop.

    Raises:
        Abort: it is suspended, wanted again, or another process has it. Prefect ends the process then, and
            leaves the state as it is.
    """
    if not line.is_held():
        return
    wanted = line.asked() not in (Reason.SUSPEND, Reason.TAKEN)
    with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(flow_run)
        except ObjectNotFound:
            raise Abort("the flow run was deleted") from None
        wanted = wanted and is_ours(run) and (run.state is None or run.state.type not in WAITING)
    if not wanted:
        raise Abort("the run's state is not this process's to say")


def _look_on(flow_run: UUID, over: threading.Event, logger: Logger) -> None:
    """Compare what the server says with what is, until ``over``."""
    unheard = 0.0
    with get_client(sync_client=True) as client:
        while not over.wait(LOOK_SECONDS):
            try:
                run = client.read_flow_run(flow_run)
            except ObjectNotFound:  # deleted: nobody could see or cancel it any more
                line.ask(Reason.CANCEL)
                return
            except httpx.HTTPError:
                continue  # the next look may find it
            state = run.state
            if state is None or over.is_set() or line.asked():
                continue
            if not is_ours(run):
                line.ask(Reason.TAKEN)
            elif state.name == "Suspended":
                # (Prefect ends a suspended run between two tasks; a task may train for weeks.)
                line.ask(Reason.SUSPEND)
            elif state.type == StateType.CANCELLED:
                line.ask(Reason.CANCEL)
            elif state.type == StateType.CANCELLING:
                unheard = unheard or time.monotonic()
                if time.monotonic() - unheard >= UNHEARD_SECONDS:
                    line.ask(Reason.CANCEL)
            elif state.type == StateType.CRASHED:
                logger.warning("taken for dead (%s), but it lives and goes on", state.message)
                with contextlib.suppress(httpx.HTTPError):
                    client.set_flow_run_state(flow_run, Running(message="It lives, and goes on."), force=True)


def _settle(flow_run: UUID, done: bool, logger: Logger) -> None:
    """Wait for the server, and have it know how the tasks ended: events that nobody took are lost.

    Args:
        flow_run: whose tasks.
        done: all of them; otherwise the last one is where the run ended.
        logger: of the run.
    """
    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    deadline = time.monotonic() + SETTLE_SECONDS
    patience = SERVER_SECONDS if line.asked() is None else LEAVING_SECONDS
    # Whatever the server has against it, what was made is made.
    with get_client(sync_client=True) as client, contextlib.suppress(httpx.HTTPError):
        while True:
            tasks = await_server(lambda: client.read_task_runs(flow_run_filter=only), logger, patience)
            unended = [task for task in tasks if task.state is None or not task.state.is_final()]
            if not unended or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        last = max(tasks, key=lambda task: task.created or 0, default=None)  # type: ignore[arg-type,return-value]
        for task in unended:
            end = Completed() if done or task is not last else Crashed(message="It ended here.")
            client.set_task_run_state(task.id, end, force=True)


def await_server(ask: Callable[[], Answer], logger: Logger, seconds: float = SERVER_SECONDS) -> Answer:
    """Ask the server for something, again and again while it is away.

    Raises:
        httpx.TransportError: it stayed away.
    """
    deadline, said = time.monotonic() + seconds, False
    while True:
        try:
            return ask()
        except httpx.TransportError as error:
            if time.monotonic() > deadline:
                raise
            if not said:
                logger.warning("waiting for the Prefect server (%s); what was made is safe", error)
            said = True
            time.sleep(2)
