"""What a stage takes over when its plan was changed in the middle: the training before the change.

A changed plan is another artifact, with a work folder of its own. Up to the step of the change both plans
read the same, so the checkpoint of the former plan at or before that step, with the receipts up to it, is
exactly what the new stage would have come to by itself. It is taken over, and the step is not trained twice.
Nothing of the former folder is changed.

Torch is never imported here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.curriculum.common import common_steps
from data_pipeline.curriculum.plan import PLAN_FILE, Plan
from pretrain.branch import take
from pretrain.checkpoint.folder import EXTRA, IDENTITY
from pretrain.checkpoint.retention import MILESTONES
from pretrain.config import ScheduleConfig, TrainingConfig
from pretrain.schedule import learning_rate
from stemma.core.artifact import SCRATCH, STAGE_RECORD
from stemma.core.errors import LockedError
from stemma.core.files import read_json
from stemma.core.stage import Stage, Workspace, lock, lock_path


@dataclass(frozen=True)
class Former:
    """The same stage under a plan that begins alike.

    Attributes:
        folder: its work folder or sealed artifact.
        steps: steps in which it does the same.
        checkpoint: its newest checkpoint within those; None if none is kept.
        step: that checkpoint's step; 0 without one.
    """

    folder: Path
    steps: int
    checkpoint: Path | None
    step: int


def adopt(stage: Stage, work: Workspace, plan: Plan, training: TrainingConfig) -> None:
    """Take over the longest training that some other plan of this stage has in common with this one.

    Does nothing where the stage has a checkpoint of its own. Safe to repeat after a crash.

    Args:
        stage: with its inputs.
        work: its workspace.
        plan: what it trains on.
        training: for the schedule: a learning rate that depends on the stage's length changes with it.
    """
    own = work.scratch / "checkpoint"
    if (work.path / "checkpoint").exists() or any(own.glob("step-*")):
        return
    kin = formers(stage, work.path, plan, training.schedule)
    if not kin:
        return
    best = max(kin, key=lambda former: (former.step, former.steps, former.folder.name))
    if best.checkpoint is None:
        work.progress.say(
            f"its first {best.steps} steps are those of {best.folder.name}, but no checkpoint of these is "
            "kept there: they are trained again"
        )
        return
    try:
        with lock(lock_path(best.folder), 0.0, work.progress):
            _take(best, best.checkpoint, stage, work.path, own)
    except LockedError:
        work.progress.say(f"{best.folder.name} is being trained by another process; nothing is taken over")
        return
    work.progress.say(
        f"its first {best.steps} steps are those of {best.folder.name}: taken over up to step {best.step}"
    )


def formers(stage: Stage, own: Path, plan: Plan, schedule: ScheduleConfig) -> list[Former]:
    """Every other work folder or artifact of this stage that differs in its plan alone and begins alike."""
    found = []
    mine = _without_plan(stage.identity())
    for folder in sorted(own.parent.glob(f"{stage.name}-*")):
        record = folder / STAGE_RECORD
        if folder == own or not record.is_file():
            continue
        theirs = read_json(record)
        if _without_plan({key: theirs.get(key) for key in mine}) != mine:
            continue
        made_from = f"{stage.inputs['plan'].name}-{theirs['inputs']['plan'][:12]}"
        if not (own.parent / made_from / PLAN_FILE).is_file():
            continue
        former = Plan.load(own.parent / made_from)
        shared = common_steps(former, plan)
        steps = same_rates(schedule, former.total_steps, plan.total_steps, shared)
        if steps and trained_steps(folder):
            checkpoint, step = newest_checkpoint(folder, steps)
            found.append(Former(folder, steps, checkpoint, step))
    return found


def same_rates(schedule: ScheduleConfig, former_total: int, total: int, steps: int) -> int:
    """Of the first ``steps`` steps, those whose learning rate is the same in stages of either length."""
    if former_total == total or schedule.shape == "constant":
        return steps
    for step in range(steps):
        if learning_rate(schedule, step, former_total) != learning_rate(schedule, step, total):
            return step
    return steps


def trained_steps(folder: Path) -> int:
    """Steps that a stage's folder has a receipt for."""
    path = folder / "receipts.jsonl"
    if not path.exists():
        return 0
    with open(path, "rb") as handle:
        return sum(line.endswith(b"\n") for line in handle)


def newest_checkpoint(folder: Path, upto: int) -> tuple[Path | None, int]:
    """The newest checkpoint of a stage's folder at or before a step; ``(None, 0)`` if none is kept.

    None of a moment at which steps were being left out because of a later one: another plan has others then.
    """
    named = [*folder.glob(f"{SCRATCH}/checkpoint/step-*"), *folder.glob(f"{MILESTONES}/step-*")]
    kept = [*named, folder / "checkpoint"]
    states = {path: _state(path) for path in kept if (path / EXTRA).is_file()}
    usable = [
        (state["step"], path)
        for path, state in states.items()
        if state.get("decided_by", 0) <= state["step"] <= upto
    ]
    step, path = max(usable, default=(0, None))
    return path, step


def _state(checkpoint: Path) -> dict[str, Any]:
    """The training state in a checkpoint: step, ledger, positions of the logs."""
    return dict(read_json(checkpoint / EXTRA)["extra"])


def _take(former: Former, checkpoint: Path, stage: Stage, path: Path, own: Path) -> None:
    inputs = {role: artifact.fingerprint for role, artifact in stage.inputs.items()}  # the plan's is another
    take(former.folder, checkpoint, path, own, read_json(checkpoint / IDENTITY) | {"inputs": inputs})


def _without_plan(identity: dict[str, Any]) -> dict[str, Any]:
    inputs = {role: fingerprint for role, fingerprint in identity["inputs"].items() if role != "plan"}
    return {**identity, "inputs": inputs}
