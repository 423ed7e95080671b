"""``edit-mix``: change the mix of a run in the middle of a stage, once a person has seen what follows."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.states import Cancelled, State
from pydantic import BaseModel, Field, ValidationError

from data_pipeline.config import PhaseConfig, PlanEdit
from flows.approval import DAYS, ask
from flows.events import artifact_key
from flows.mixes import difference_lines
from flows.names import typed_or
from stemma.consequences import consequences, refusal
from stemma.core.artifact import Store
from stemma.core.errors import Preempted, ProfileError, StemmaError
from stemma.edits import EditFile, Proposal, propose, save_edit
from stemma.profile import explain, load_profile


class Phase(BaseModel):
    """A stretch of the stage's rest."""

    name: str = Field("changed", title="Name", description="For people; one the stage does not have yet.")
    tokens: int = Field(ge=1, title="Tokens", description="Budget; rounded down to whole optimizer steps.")
    sequence_length: int = Field(ge=1, title="Sequence length", description="Tokens per sample.")
    weights: dict[str, float] = Field(
        title="Weights",
        description='Share by source, tier or domain, such as {"web": 40, "stem": 30, "code": 30}.',
    )
    upsample: dict[str, float] = Field(
        {}, title="Upsample", description='Factors on quality tiers, such as {"t0": 0.5, "t2": 2}.'
    )


def _run_name() -> str:
    given = runtime.flow_run.parameters
    return typed_or(f"{given.get('run') or Path(given['profile']).stem}, step {given['at_step']}")


@flow(
    name="edit-mix",
    description="Change the mix of a run from a step on. Shows what would follow and waits for a yes.",
    flow_run_name=_run_name,
    persist_result=False,
)
def edit_mix(
    at_step: Annotated[int, Field(ge=1)],
    profile: str = "nano",
    run: str = "",
    stage: Literal["", "commonsense", "stem", "general", "agentic"] = "",
    phases: list[Phase] = [],  # noqa: B006 (Prefect reads it)
    phases_yaml: str = "",
    max_epochs: Annotated[int | None, Field(ge=1)] = None,
    train_again: bool = False,
    approval_days: Annotated[float, Field(gt=0)] = DAYS,
    root: str = "runs",
) -> State[Any] | None:
    """Write an edit of a run's mix, after a person's yes. The run goes on with it when it is continued.

    Args:
        at_step: Optimizer steps that keep the mix there is.
        profile: Whose run; the run is named as the profile unless another name is given.
        run: The run, where it is not named as its profile.
        stage: Training stage. Empty for the first that is not trained to its end.
        phases: What is read from that step to the stage's end, in place of what was planned.
        phases_yaml: The same as `stemma mix edit` reads it, in place of the fields above.
        max_epochs: Cap on epochs from there on. Empty for as it was.
        train_again: Even where steps that are trained have to be trained anew.
        approval_days: How long an answer may take.
        root: Folder of runs, on the worker's machine.
    """
    store, name = Store(Path(root)), run or load_profile(profile).name
    proposal = propose(store, name, stage, edit(at_step, phases, phases_yaml, max_epochs))
    if not train_again and (problem := refusal(proposal, "*Train again*", "*At step*")):
        raise StemmaError(problem)
    text = question(proposal, name)
    create_markdown_artifact(text, key=artifact_key("edit", name), description=f"Change the mix of {name}")
    try:
        ask(f"edit-{name}-{proposal.stage}", text, approval_days, _decided(proposal))
    except Preempted as declined:
        return Cancelled(message=f"{declined} The mix of {name} is as it was.", data=declined)
    path = save_edit(store.root / name, proposal.stage, proposal.edit)
    get_run_logger().info("Written to %s. Retry the run, or start it anew, to go on with it.", path)
    return None


def edit(at_step: int, phases: list[Phase], text: str, max_epochs: int | None) -> PlanEdit:
    """The edit a form asks for.

    Raises:
        ProfileError: the phases are given twice or not at all, or are no phases; every problem with its path.
    """
    if bool(phases) == bool(text.strip()):
        raise ProfileError("edit-mix", ["give the phases in the form or as YAML: one of them"])
    try:
        if phases:
            made = tuple(PhaseConfig.model_validate(phase.model_dump()) for phase in phases)
            return PlanEdit(at_step=at_step, phases=made, max_epochs=max_epochs)
        tree = yaml.safe_load(text)
        wanted = EditFile.model_validate({"phases": tree} if isinstance(tree, list) else tree)
        most = max_epochs if max_epochs is not None else wanted.max_epochs
        return PlanEdit(at_step=at_step, phases=wanted.phases, max_epochs=most)
    except yaml.YAMLError as error:
        raise ProfileError("edit-mix", [f"phases: not readable as YAML: {error}"]) from error
    except ValidationError as error:
        raise ProfileError("edit-mix", list(explain(error))) from error


def _decided(proposal: Proposal) -> str:
    """What a yes is given to. How far a stage has trained meanwhile is not part of it, as long as the change
    still lies ahead of it or already lay behind."""
    behind = proposal.trained > proposal.edit.at_step
    return repr((proposal.edit, proposal.replaced, proposal.after, proposal.sealed, behind))


def question(proposal: Proposal, run: str) -> str:
    """Markdown: may the mix be changed so?"""
    from data_pipeline.inspection.difference import compare_sides, side_of_mix

    sides = [{mix.stage: side_of_mix(mix) for mix in mixes} for mixes in (proposal.before, proposal.after)]
    lines = [
        f"### Change the mix of `{proposal.stage}` of run `{run}` from step {proposal.edit.at_step:,} on?"
    ]
    lines += ["", *(f"- {line}" for line in consequences(proposal, run)), ""]
    return "\n".join([*lines, *difference_lines(compare_sides(*sides), ("as it is", "edited"))]) + "\n"
