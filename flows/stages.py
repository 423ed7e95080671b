"""The flows that people start: the whole chain, and each stage group on its own.

Prefect shows, schedules and restarts; what is made and what is already there is decided by the artifacts
alone. So no task is cached or retried by Prefect, and running a flow again, by whatever button, resumes.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows.request import Request, carry_out
from stemma.pipeline import nodes
from stemma.profile import profile_names

LAST = nodes()[-1].name

# Choices for the form; what the fields mean is in the docstring of ``pipeline``, where Prefect reads it.
ProfileName = Annotated[str, Field(json_schema_extra={"enum": profile_names()})]
StageName = Annotated[str, Field(json_schema_extra={"enum": [node.name for node in nodes()]})]


@flow(
    name="pipeline",
    description="From the corpus over training, SFT and RL to an exported model. Run again, it continues.",
    flow_run_name="{profile}",
    retries=0,
    persist_result=False,
)
def pipeline(
    profile: ProfileName = "nano",
    stop_after: StageName = LAST,
    overrides: list[str] = [],  # noqa: B006 (Prefect reads the default into the form)
    root: str = "runs",
) -> State[Any] | None:
    """Make what a profile describes, stage by stage; what is there already is verified and kept.

    Args:
        profile: What to make: a profile in configs/.
        stop_after: The last stage to make; those before it are made or verified first.
        overrides: Changes to the profile, one per line, such as sft.steps=100.
        root: Folder of runs, artifacts and downloads, on the worker's machine.
    """
    return carry_out(Request(profile, tuple(overrides), root, stop_after=stop_after))
