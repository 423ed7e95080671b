"""The flows that people start: the whole chain, and each stage group on its own.

Prefect shows, schedules and restarts; what is made and what is already there is decided by the artifacts
alone. So no task is cached by Prefect, and running a flow again, by whatever button, resumes.
"""

from pathlib import Path
from typing import Any

from prefect import Flow, flow, runtime
from prefect.states import State

from flows.edit_mix import edit_mix
from flows.forms import WHOLE, request, signature
from flows.inspect_mix import inspect_mix
from flows.names import typed_or
from flows.request import carry_out
from stemma.groups import GROUPS


def _run_name() -> str:
    """What the UI calls a flow run: the run's name, which is the profile's unless another was given."""
    given = runtime.flow_run.parameters
    profile, run = Path(str(given["profile"])).stem, given.get("run")
    if start := given.get("start_from"):
        from_run = given.get("from_run") or profile
        return typed_or(f"{run}, from {start} of {from_run}" if run else f"{from_run} from {start}")
    return typed_or(run or profile)


def _flow(name: str, title: str) -> "Flow[..., State[Any] | None]":
    """A flow that makes a stage group, with what its form asks for as parameters."""

    def make(**given: Any) -> State[Any] | None:
        return carry_out(request(name, given))

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"{title[0].upper()}{title[1:]}. What is there already is verified and kept."
    make.__signature__ = signature(name)  # type: ignore[attr-defined]
    return flow(
        name=name, description=make.__doc__, flow_run_name=_run_name, retries=0, persist_result=False
    )(make)


# One name per flow: workers find them as ``flows.stages.<name>``.
pipeline = _flow(WHOLE, "from the corpus over training, SFT and RL to an exported model")
data = _flow("data", GROUPS["data"].title)
tokenizer = _flow("tokenizer", GROUPS["tokenizer"].title)
trajectories = _flow("trajectories", GROUPS["trajectories"].title)
pretrain = _flow("pretrain", GROUPS["pretrain"].title)
midtrain = _flow("midtrain", GROUPS["midtrain"].title)
sft = _flow("sft", GROUPS["sft"].title)
rl = _flow("rl", GROUPS["rl"].title)
evaluate = _flow("evaluate", GROUPS["evaluate"].title)
export = _flow("export", GROUPS["export"].title)

FLOWS = (
    pipeline,
    data,
    tokenizer,
    trajectories,
    pretrain,
    midtrain,
    sft,
    rl,
    evaluate,
    export,
    inspect_mix,
    edit_mix,
)
