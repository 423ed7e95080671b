"""The toy pipeline as a worker's flow runs it, looking at its own state every half second instead of ten."""

from typing import Any

from prefect import flow
from prefect.states import State
from toy_chain import make_run

from flows import watch
from flows.request import Request, carry_out, given_walk

watch.LOOK_SECONDS, watch.UNHEARD_SECONDS = 0.5, 1.0


@flow(name="hasty")
def hasty(root: str, second: str = "second") -> State[Any] | None:
    """Three nodes."""
    given_walk.set(make_run(root, second=second))
    return carry_out(Request("toy", root=root))
