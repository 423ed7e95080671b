"""The plan of a stage that goes on from a checkpoint of another run: the steps done stay, the rest is anew.

What was read up to the checkpoint is what the plan of that run says. From there on the curriculum of this run
holds: of its phases, what is left after the tokens read so far. Sources go on from where they then stand, so
nothing is read twice and nothing is lost, and ledger and trace hold over the seam.
"""

from dataclasses import replace

from data_pipeline.config import PhaseConfig, PlanConfig, PlanEdit
from data_pipeline.curriculum.build import PlanError, edit_plan
from data_pipeline.curriculum.plan import PLAN_FILE, Plan
from stemma.core.artifact import Artifact
from stemma.core.files import read_json

ROLE = "branch"  # of the input that holds the checkpoint
BRANCH_FILE = "branch.json"


def branched_plan(asked: PlanConfig, config: PlanConfig, branch: Artifact) -> Plan:
    """Plan a stage that goes on from a checkpoint.

    A config that says the same as the one the checkpoint was trained under gives the same plan, so that
    nothing changes where nothing was changed.

    Args:
        asked: the stage's curriculum and batch, as they are now, with the changes of the mix made since.
        config: the same without the sources that were out of reach.
        branch: the artifact of the checkpoint.

    Raises:
        PlanError: nothing is left to train, or the rest cannot be carried out; says why.
    """
    told = read_json(branch.file(BRANCH_FILE))
    former, step = Plan.load(branch.file(PLAN_FILE)), int(told["step"])
    before = PlanConfig.model_validate(told["plan_config"])
    known = before.edits
    if asked.edits[: len(known)] == known and _with_edits(asked, known) == before:
        plan, later = former, config.edits[len(known) :]
    else:
        later = tuple(edit for edit in config.edits if edit.at_step >= step)
        early = tuple(edit for edit in config.edits if edit.at_step < step)
        config = _with_edits(config, early)
        plan = edit_plan(
            replace(former, batch_tokens=config.batch_tokens), step, _rest(config, former, step), config
        )
        if plan.total_steps == step:
            raise PlanError(
                f"nothing is left to train: step {step} has read {_tokens(former, step):,} tokens, and "
                "the curriculum asks for no more. Give it more tokens, or branch from an earlier step"
            )
    if passed := [edit.at_step for edit in later if edit.at_step < step]:
        raise PlanError(
            f"the mix cannot be changed at step {passed[0]}: this run goes on from step {step} of "
            f"{told['run']!r}, and what comes before is as it is"
        )
    for edit in later:
        caps = config.curriculum.max_epochs if edit.max_epochs is None else edit.max_epochs
        curriculum = config.curriculum.model_copy(update={"max_epochs": caps})
        changed = config.model_copy(update={"curriculum": curriculum})
        plan = edit_plan(plan, edit.at_step, edit.phases, changed)
    return plan


def _with_edits(config: PlanConfig, edits: tuple[PlanEdit, ...]) -> PlanConfig:
    curriculum = config.curriculum.model_copy(update={"edits": edits})
    return config.model_copy(update={"curriculum": curriculum})


def _rest(config: PlanConfig, former: Plan, step: int) -> list[PhaseConfig]:
    """Phases of a curriculum without the tokens that some steps of another plan have read, in whole steps."""
    kept = {phase.name for phase in former.phases if phase.first_step < step}
    read = _tokens(former, step)
    rest = []
    for phase, steps in config.stretches:
        tokens = steps * config.batch_tokens
        left = max(0, tokens - read) // config.batch_tokens * config.batch_tokens
        read = max(0, read - tokens)
        if left:
            name = f"{phase.name}_{step}" if phase.name in kept else phase.name
            rest.append(phase.model_copy(update={"tokens": left, "name": name}))
    return rest


def _tokens(plan: Plan, step: int) -> int:
    return sum(count.tokens for count in plan.planned(step).counts.values())
