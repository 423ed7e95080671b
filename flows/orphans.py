"""Flow runs whose process is gone without a word (``kill -9``, a power cut) would stay "Running" for ever.

A run started from a terminal carries its process in a label; the next one, or the UI when it starts, looks
whether that process still lives and, if not, records the crash. (Runs of a worker are watched by their
worker.)
"""

import os
import socket
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from stemma.core.lifeline import started_at

TERMINAL = "terminal"
RUNNING = [StateType.RUNNING, StateType.PENDING]
LABEL = "stemma.process"


def mark(flow_run: UUID) -> None:
    """Label a flow run with this process: host, process id, and when it started, since ids are used again."""
    process = f"{socket.gethostname()}:{os.getpid()}:{started_at(psutil.Process()):.2f}"
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run, {LABEL: process})


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
    """Record as crashed what counts as running though its process is gone; returns how many flow runs."""

    buried = 0
    with get_client(sync_client=True) as client:
        candidates = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[TERMINAL]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=RUNNING)),
            )
        )
        for run in candidates:
            process = run.labels.get(LABEL)
            if not isinstance(process, str) or not is_gone(process):
                continue
            crashed = Crashed(message="Its process is gone. Run the same command again to continue.")
            tasks = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
                task_run_filter=TaskRunFilter(
                    state=TaskRunFilterState(type=TaskRunFilterStateType(any_=RUNNING))
                ),
            )
            for task_run in tasks:
                client.set_task_run_state(task_run.id, crashed, force=True)
            client.set_flow_run_state(run.id, crashed, force=True)
            buried += 1
    return buried
