"""What a flow run was asked for, and how it is carried out: the same for every flow of this room."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime
from prefect.exceptions import TerminationSignal
from prefect.states import State

from flows.approval import DAYS
from flows.chain import follow
from flows.events import TaskListener
from flows.orphans import mark
from flows.questions import gate
from flows.watch import let_be, stopped, watched
from stemma.core.errors import Preempted
from stemma.pipeline import Run, begin

# A walk made by the caller (the demo in a terminal), followed instead of one built from the parameters.
given_walk: ContextVar[Run | None] = ContextVar("given_walk", default=None)


@dataclass(frozen=True)
class Request:
    """Attributes:
    profile: name or path of a profile.
    overrides: changes to it, ``path.to.field=value``.
    root: folder of runs, on the worker's machine.
    run: the run's name; the profile's by default.
    group: a stage group; the whole chain by default.
    stop_after: the last node to make.
    approve: stages that do not begin before a person says yes.
    approval_days: how long an answer may take; then the flow run fails.
    start_from: branch another run: the first stage to make, or stage and step (``stem``, ``stem@120``).
    from_run: the run to branch from; the profile's by default.
    """

    profile: str
    overrides: Sequence[str] = ()
    root: str = "runs"
    run: str = ""
    group: str = ""
    stop_after: str = ""
    approve: Sequence[str] = ()
    approval_days: float = DAYS
    start_from: str = ""
    from_run: str = ""

    def walk(self) -> Run:
        """The run that is asked for, or the one the caller made."""
        return given_walk.get() or begin(
            self.profile, self.overrides, Path(self.root), self.run, self.start_from, self.from_run
        )


def carry_out(request: Request) -> State[Any] | None:
    """Make what is asked for, node by node, in the flow run that calls this.

    Returns:
        A state that is neither completed nor failed, for the flow to return; None if all is made.
    """
    try:
        walk = request.walk()
        if given_walk.get() is not None:
            mark(runtime.flow_run.id)
        with watched(), walk.held(TaskListener(walk.name, get_run_logger())):
            order = walk.order(request.stop_after, request.group)
            follow(walk, order, gate(walk, request.approve, request.approval_days))
    except (Preempted, TerminationSignal) as error:
        # Asked to stop and left a checkpoint: not a failure. "Retry" or the same command continues.
        if (state := stopped(error)) is None:
            raise
        let_be(runtime.flow_run.id)
        return state
    return None
