"""A flow over the micro chain that a worker's process can import: real training, stopped and continued."""

from typing import Any

from prefect import flow
from prefect.states import State

from flows.request import Request, carry_out
from tests.micro import PROFILE


@flow(name="micro")
def micro(root: str, stop_after: str, overrides: list[str] = []) -> State[Any] | None:  # noqa: B006
    """The chain up to a node."""
    return carry_out(Request(str(PROFILE), tuple(overrides), root, stop_after=stop_after))
