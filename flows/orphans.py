"""Flow runs whose process is gone without a word (``kill -9``, a power cut) would stay "Running" for ever.

Every run carries its process in a label, whether a terminal or a worker started it; the next one, and the UI
while it is there, looks whether that process still lives and, if not, records the crash. (Runs of other
machines' workers are left to the automation that listens for heartbeats.)
"""

import os
import socket
import time
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled, Crashed, Scheduled, State

from stemma.core.lifeline import started_at

TERMINAL = "terminal"
RUNNING = [StateType.RUNNING, StateType.PENDING]
ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
LABEL = "stemma.process"
STARTING_SECONDS = 120.0  # from a worker's taking a run to the run's own process; two busy cores need 20
GONE = "Its process is gone. Retry, or the same command again, continues it."


def mark(flow_run: UUID) -> None:
    """Label a flow run with this process."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run, {LABEL: this_process()})


def this_process() -> str:
    """Host, process id, and when it started, since ids are used again."""
    return f"{socket.gethostname()}:{os.getpid()}:{started_at(psutil.Process()):.2f}"


def is_ours(run: FlowRun) -> bool:
    """Whether no other process has taken a flow run over, which somebody retried or resumed."""
    return run.labels.get(LABEL) in (None, this_process())


def is_gone(process: str) -> bool:
    """Whether a label of ``mark`` names a process of this machine that has ended."""
    host, pid, started = process.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{started_at(psutil.Process(int(pid))):.2f}" != started
    except psutil.NoSuchProcess:
        return True


def bury() -> int:
    """Record as crashed what counts as running though its process is gone; returns how many flow runs.

    A run that a worker took and died with before it began is queued again.
    """
    unended = FlowRunFilterState(type=FlowRunFilterStateType(any_=[*RUNNING, StateType.CANCELLING]))
    buried = 0
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=unended)):
            gone = _is_gone(run)
            # A retried run still has the label of the attempt before until its own process has begun.
            if run.state is None or run.state.type == StateType.PENDING:
                if (
                    (gone or LABEL not in run.labels)
                    and run.deployment_id
                    and _waited(run) > STARTING_SECONDS
                ):
                    client.set_flow_run_state(run.id, Scheduled(message="Its worker died; queued again."))
            elif gone:
                _bury(client, run)
                buried += 1
        _bury_tasks(client)
    return buried


def _waited(run: FlowRun) -> float:
    return time.time() - run.state.timestamp.timestamp() if run.state else 0.0


def _bury(client: SyncPrefectClient, run: FlowRun) -> None:
    cancelling = run.state is not None and run.state.type == StateType.CANCELLING
    end: State[None] = Cancelled(message=GONE) if cancelling else Crashed(message=GONE)
    client.set_flow_run_state(run.id, end, force=True)


def _bury_tasks(client: SyncPrefectClient) -> None:
    """End tasks that count as running in runs that ended: of a killed process a worker ends the run alone."""
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ENDED))),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=RUNNING))),
    )
    runs = {task.flow_run_id for task in tasks if task.flow_run_id}
    gone = {run for run in runs if _is_gone(client.read_flow_run(run))}
    for task in tasks:
        if task.flow_run_id in gone:
            client.set_task_run_state(task.id, Crashed(message=GONE), force=True)


def _is_gone(run: FlowRun) -> bool:
    process = run.labels.get(LABEL)
    return isinstance(process, str) and is_gone(process)
