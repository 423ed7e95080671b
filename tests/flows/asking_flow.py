"""The toy pipeline with a stage that waits for a yes."""

from typing import Any

from prefect import flow
from prefect.states import Cancelled, State
from toy_chain import make_run

from flows.chain import follow
from flows.questions import gate
from stemma.core.errors import Preempted


@flow(name="asking", persist_result=False)
def asking(root: str, second: str = "second", approve: list[str] = ["plan.second"]) -> State[Any] | None:  # noqa: B006
    """Three nodes, of which the second waits."""
    walk = make_run(root, second=second)
    try:
        follow(walk, walk.order(), gate(walk, approve, 3.0))
    except Preempted as stopped:
        return Cancelled(message=str(stopped), data=stopped)
    return None
