"""Changes of a run's mix while it trains: kept in the run's folder, and applied whenever the run goes on.

``stemma mix edit`` proposes one against the plans as they are, shows what would follow, and writes it into
``edits.yaml``; ``Run`` reads that file and goes on with the changed curriculum. The profile stays as it is.
To take an edit back, delete it from the file: the work done before it still stands.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from data_pipeline.config import PhaseConfig, PlanConfig, PlanEdit
from stemma.branch import load_branch
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.errors import ProfileError, StemmaError
from stemma.core.files import write_atomic
from stemma.core.stage import Execution, execute, holder, lock_path
from stemma.profile import TRAINING_STAGES, Profile, explain, load_yaml

if TYPE_CHECKING:
    from data_pipeline.curriculum.plan import Plan
    from data_pipeline.inspection.mix import StageMix

EDITS_FILE = "edits.yaml"
HEADER = (
    "# Changes of the mix of this run, by training stage, made by `stemma mix edit`.\n"
    "# `stemma run` applies them on top of the profile. Delete an entry to take it back.\n"
)

Edits = dict[str, tuple[PlanEdit, ...]]


class EditFile(Config):
    """What a user writes for ``stemma mix edit``: a curriculum's rest."""

    phases: tuple[PhaseConfig, ...] = Field(min_length=1, description="phases for the rest of the stage")
    max_epochs: int | None = Field(None, ge=1, description="cap on epochs from there on; null: as it was")


@dataclass(frozen=True)
class Proposal:
    """What an edit would do.

    Attributes:
        stage: the training stage.
        edit: the change.
        replaced: earlier edits of the run that it makes void, because they come at or after its step.
        before, after: the mixes of the stage and of those planned after it; edits that the run has not been
            planned with yet are in both.
        trained: steps of the stage that are trained under the plan as it is.
        resume: the step it would go on from: of the newest checkpoint before the change that can be kept.
        sealed: the stage is trained to its end.
        later: stages and artifacts made after it that would be made anew.
        running: a process is training it now.
        schedule_ends: the step at which the learning rate begins to differ, because the stage's length does;
            None if the mix differs first.
    """

    stage: str
    edit: PlanEdit
    replaced: tuple[PlanEdit, ...]
    before: list["StageMix"]
    after: list["StageMix"]
    trained: int
    resume: int
    sealed: bool
    later: list[str]
    running: bool
    schedule_ends: int | None


def load_edits(folder: Path) -> Edits:
    """The edits of a run, from its folder.

    Raises:
        ProfileError: the file is not what ``save_edit`` writes; every problem with its path.
    """
    path = folder / EDITS_FILE
    if not path.exists():
        return {}
    try:
        # a stage, or a file, of which every edit was taken back is empty
        tree = load_yaml(path, empty=True)
        return TypeAdapter(Edits).validate_python({stage: made for stage, made in tree.items() if made})
    except ValidationError as error:
        raise ProfileError(str(path), list(explain(error))) from error


def with_edits(profile: Profile, edits: Mapping[str, Iterable[PlanEdit]], origin: str) -> Profile:
    """A profile whose curricula hold a run's edits after their own, validated as a whole.

    Raises:
        ProfileError: a stage is unknown, or the profile cannot be carried out with them.
    """
    curricula = {stage: getattr(profile.curriculum, stage) for stage in TRAINING_STAGES}
    if unknown := sorted(edits.keys() - curricula.keys()):
        raise ProfileError(
            origin, [f"{name}: no such stage; stages are {', '.join(TRAINING_STAGES)}" for name in unknown]
        )
    for stage, more in edits.items():
        folded = curricula[stage].edits
        for edit in more:
            folded = fold(folded, edit)
        curricula[stage] = curricula[stage].model_copy(update={"edits": folded})
    sections: dict[str, Any] = {name: getattr(profile, name) for name in Profile.model_fields}
    try:
        sections["curriculum"] = type(profile.curriculum).model_validate(curricula)
        return Profile.model_validate(sections)
    except ValidationError as error:
        raise ProfileError(origin, list(explain(error))) from error


def fold(edits: tuple[PlanEdit, ...], new: PlanEdit) -> tuple[PlanEdit, ...]:
    """Edits with one more, which replaces all that was planned after its step: later edits too."""
    return (*(edit for edit in edits if edit.at_step < new.at_step), new)


def save_edit(folder: Path, stage: str, edit: PlanEdit) -> Path:
    """Add an edit to a run's, and return the file's path."""
    edits = load_edits(folder)
    edits[stage] = fold(edits.get(stage, ()), edit)
    tree = {
        name: [edit.model_dump(mode="json", exclude_defaults=True) for edit in made]
        for name, made in edits.items()
    }
    path = folder / EDITS_FILE
    write_atomic(path, HEADER + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    return path


def read_edit(path: Path, at_step: int) -> PlanEdit:
    """An edit from a user's file.

    Raises:
        ProfileError: it is not YAML, or not phases; every problem with its path.
    """
    try:
        wanted = EditFile.model_validate(load_yaml(path))
        return PlanEdit(at_step=at_step, phases=wanted.phases, max_epochs=wanted.max_epochs)
    except ValidationError as error:
        raise ProfileError(str(path), list(explain(error))) from error


def propose(store: Store, run: str, stage: str, edit: PlanEdit) -> Proposal:
    """Plan a run's stage and those after it with an edit, beside the run; nothing of it is touched.

    Args:
        store: where the run is.
        run: its name.
        stage: a planned stage; empty for the first that is not trained to its end.
        edit: the change.

    Raises:
        StemmaError: there is no such run, stage or step; or the stage, or one after it, could not be carried
            out with the edit.
    """
    from data_pipeline.inspection.lookup import PLAN, load_plan, planned_stages
    from data_pipeline.inspection.mix import mix_tables
    from stemma.pipeline import open_run, open_work, read_record

    artifacts, working = open_run(store, run), open_work(store, run)
    record, kept = read_record(store, run)["nodes"], load_edits(store.root / run)
    branch = load_branch(store.root / run)
    taken = branch.taken if branch else {}
    stages = planned_stages(artifacts)
    stage = stage or next((name for name in stages if name not in artifacts.keys() | taken.keys()), "")
    if stage not in stages:
        known = ", ".join(stages) or "none yet"
        raise StemmaError(
            f"which stage? {stage!r} is not planned; planned stages: {known}; name one with --stage"
            if stage
            else f"every planned stage of run {run!r} is trained; name one with --stage: {known}"
        )
    if branch and stage in taken:
        raise StemmaError(
            f"run {run!r} has {stage} from run {branch.from_run!r}, as it is: its mix can be changed from "
            f"{branch.start} on"
        )
    if branch and branch.stage == stage and edit.at_step < (branch.step or 0):
        raise StemmaError(
            f"run {run!r} goes on from step {branch.step} of run {branch.from_run!r}, and what comes before "
            f"is as it is: the mix of {stage} can be changed from step {branch.step} on"
        )
    planned = {name: PlanConfig.model_validate(record[PLAN + name]["identity"]["config"]) for name in stages}
    standing = dict(planned)
    for name, edits in kept.items():
        for old in edits if name in standing else ():
            standing[name] = _edited(standing[name], old, None)
    wanted = {**standing, stage: _edited(standing[stage], edit, _positions(record))}
    affected = stages[stages.index(stage) :]
    folder = artifacts[stage].path if stage in artifacts else working.get(stage)
    with tempfile.TemporaryDirectory(prefix="stemma-edit-") as scratch:
        plans = Store(Path(scratch))
        sides = [_replanned(plans, artifacts, planned, configs) for configs in (standing, wanted)]
        before, after = map(mix_tables, sides)
        trained, resume, ends = _progress(
            folder, record.get(stage), load_plan(artifacts, stage), load_plan(sides[1], stage)
        )
    return Proposal(
        stage=stage,
        edit=edit,
        replaced=tuple(old for old in kept.get(stage, ()) if old.at_step >= edit.at_step),
        before=[mix for mix in before if mix.stage in affected],
        after=[mix for mix in after if mix.stage in affected],
        trained=trained,
        resume=resume,
        sealed=stage in artifacts,
        later=[name for name in artifacts if _comes_from(artifacts, name, stage)],
        running=folder is not None and bool(holder(lock_path(folder))),
        schedule_ends=ends,
    )


def _edited(config: PlanConfig, edit: PlanEdit, positions: int | None) -> PlanConfig:
    kept = tuple(old for old in config.edits if old.at_step < edit.at_step)
    before = config.model_copy(update={"curriculum": config.curriculum.model_copy(update={"edits": kept})})
    for phase in edit.phases:
        if positions is not None and phase.sequence_length > positions:
            raise StemmaError(
                f"phase {phase.name!r}: its sequence length {phase.sequence_length} is above the model's "
                f"max_position_embeddings, {positions}"
            )
    try:
        return before.edited(edit)
    except ValidationError as error:
        problems = [str(problem["msg"]).removeprefix("Value error, ") for problem in error.errors()]
        raise ProfileError("the edit", problems) from error


def _positions(record: Mapping[str, Any]) -> int | None:
    """Positions the run's model has, where a node that says so has begun."""
    for entry in record.values():
        model = entry["identity"]["config"].get("model")
        if isinstance(model, dict) and "max_position_embeddings" in model:
            return int(model["max_position_embeddings"])
    return None


def _replanned(
    store: Store,
    artifacts: Mapping[str, Artifact],
    planned: Mapping[str, PlanConfig],
    configs: Mapping[str, PlanConfig],
) -> dict[str, Artifact]:
    """A run's artifacts without its trained stages, planned by other configs: plans from the first that
    differs on are made beside the run, from what its own were made from."""
    from data_pipeline.curriculum.stage import PlanStage
    from data_pipeline.inspection.lookup import PLAN

    found = {name: artifact for name, artifact in artifacts.items() if name not in configs}
    differs = False
    for stage, config in configs.items():
        differs = differs or config != planned[stage]
        if differs:
            made_from = found[PLAN + stage].manifest["inputs"]
            inputs = {role: found[reference["name"]] for role, reference in made_from.items()}
            plan = PlanStage(PLAN + stage, config, inputs)
            found[PLAN + stage] = execute(plan, store, Execution(workers=1))
    return found


def _progress(
    folder: Path | None, entry: Mapping[str, Any] | None, plan: "Plan", edited: "Plan"
) -> tuple[int, int, int | None]:
    """Steps trained under a plan, the one to go on from under another, and where their schedules part."""
    if folder is None or entry is None:
        return 0, 0, None
    from data_pipeline.curriculum.common import common_steps
    from pretrain.adopt import newest_checkpoint, same_rates, trained_steps
    from pretrain.config import ScheduleConfig

    shared = common_steps(plan, edited)
    schedule = ScheduleConfig.model_validate(entry["identity"]["config"]["training"]["schedule"])
    usable = same_rates(schedule, plan.total_steps, edited.total_steps, shared)
    _, resume = newest_checkpoint(folder, usable)
    return trained_steps(folder), resume, usable if usable < shared else None


def _comes_from(artifacts: Mapping[str, Artifact], name: str, ancestor: str) -> bool:
    """Whether an artifact was made from another one, directly or not, plans aside."""
    inputs = [reference["name"] for reference in artifacts[name].manifest["inputs"].values()]
    return any(
        given == ancestor or (given in artifacts and _comes_from(artifacts, given, ancestor))
        for given in inputs
    )
