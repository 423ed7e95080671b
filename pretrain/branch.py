"""Going on from a checkpoint of another run, with another learning rate, batch or mix from there on.

The checkpoint, and all that was written down up to it, becomes an artifact of its own (``BranchStage``): it
stays when the run it was taken from goes, and the branched stage's fingerprint holds which step of what was
taken. The stage itself takes both over into its work folder and trains on. What was trained before the seam
is told by the configs of that time, which ``branch.json`` holds.

Torch is never imported here.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from data_pipeline.curriculum.branched import BRANCH_FILE, ROLE
from data_pipeline.curriculum.plan import PLAN_FILE
from pretrain.checkpoint.folder import EXTRA, draft_of, replace_identity, step_folder, verify
from pretrain.checkpoint.survey import whole
from pretrain.config import BranchConfig, ModelConfig, TrainingConfig
from pretrain.trained import trained_with
from stemma.core.artifact import MANIFEST, STAGE_RECORD
from stemma.core.config import differences, identity
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, sha256_file, write_json
from stemma.core.stage import Stage, Workspace

CHECKPOINT = "checkpoint"
TAKEN = "taken"  # folder of a branch's artifact: nobody takes what is in there for a trained stage's


@dataclass(frozen=True)
class Stretch:
    """Steps of a stage that were trained under one config.

    Attributes:
        until: the first step that is not.
        config: the stage's config without its execution fields, as ``stage.json`` has it.
    """

    until: int
    config: dict[str, Any]


class BranchStage(Stage):
    """Takes a checkpoint, and the records up to it, out of another run's training stage. No inputs."""

    kind: ClassVar[str] = "branch"
    recipe: ClassVar[int] = 1

    def run(self, work: Workspace) -> dict[str, Any]:
        """See ``Stage.run``.

        Raises:
            StemmaError: it is no longer there.
            DamagedError: it, or what was written down up to it, is not what was saved.
        """
        config = cast(BranchConfig, self.config)
        source = work.path.parent / config.folder
        gone = StemmaError(
            f"step {config.step} of {config.stage} is no longer kept by run {config.run!r}; `stemma "
            f"checkpoints list {config.run}` shows what is. Branch from another step, or at the stage's "
            "beginning"
        )
        found = whole(source).get(config.step)  # it moves when the stage that it is of is finished
        if found is None or found.state_sha256 != config.state_sha256:
            raise gone
        try:
            self._copy(config, source, found.folder, work.path)
        except FileNotFoundError as error:  # a training prunes what it has newer ones of
            raise gone from error
        return {"steps": config.step, "state_sha256": config.state_sha256}

    def _copy(self, config: BranchConfig, source: Path, checkpoint: Path, own: Path) -> None:
        taken = own / TAKEN
        shutil.rmtree(taken, ignore_errors=True)
        copied = taken / CHECKPOINT
        link_tree(checkpoint, copied)
        verify(copied)
        record, state = read_json(source / STAGE_RECORD), read_json(copied / EXTRA)["extra"]
        if record["fingerprint"] != config.trained_by or state["step"] != config.step:
            raise DamagedError(f"{checkpoint} is not step {config.step} of {config.folder}")
        for name, position in logs_of(state).items():
            cut(source / f"{name}.jsonl", taken / f"{name}.jsonl", position)
        told: dict[str, Any] = {
            "run": config.run,
            "stage": config.stage,
            "step": config.step,
            "trained_by": config.trained_by,
            "state_sha256": config.state_sha256,
        }
        stretches = [*history(source), Stretch(config.step, record["config"])]
        told["history"] = [{"until": stretch.until, "config": stretch.config} for stretch in stretches]
        if "plan" in record["inputs"]:
            plan = source.parent / f"plan.{config.stage}-{record['inputs']['plan'][:12]}"
            shutil.copyfile(plan / PLAN_FILE, own / PLAN_FILE)
            told["plan_config"] = read_json(plan / MANIFEST)["config"]
        write_json(own / BRANCH_FILE, told)


def logs_of(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Positions of all record files that a checkpoint's state names: rollouts are the objective's own."""
    logs = {name: position for name, position in state["logs"].items() if position}
    if rollouts := state["objective"].get("rollouts"):
        logs["rollouts"] = rollouts
    return logs


def cut(source: Path, target: Path, position: dict[str, Any]) -> None:
    """Copy a record file up to a position.

    Raises:
        DamagedError: it does not begin with what was recorded there.
    """
    if not position["bytes"]:
        target.unlink(missing_ok=True)
        return
    shutil.copyfile(source, target)
    os.truncate(target, position["bytes"])
    if sha256_file(target) != position["sha256"]:
        raise DamagedError(
            f"{source}: its first {position['bytes']} bytes are not those recorded in the checkpoint. "
            "It was left as it is; branch from an earlier step."
        )


def history(folder: Path) -> list[Stretch]:
    """Configs that the steps of a stage were trained under before its own, oldest first; [] of most stages.

    Args:
        folder: the stage's artifact, or the folder it is being made in.
    """
    path = folder / BRANCH_FILE
    told = read_json(path)["history"] if path.exists() else []
    return [Stretch(entry["until"], entry["config"]) for entry in told]


def go_on(
    stage: Stage, work: Workspace, model: ModelConfig, training: TrainingConfig, total_steps: int
) -> list[Stretch]:
    """Let a stage begin at the checkpoint it was branched from, if it was.

    Safe to repeat: a stage with a checkpoint of its own goes on from that. Returns ``history`` of the stage.

    Args:
        stage: with its inputs.
        work: its workspace.
        model: the shape.
        training: how it trains from there on.
        total_steps: of the stage.

    Raises:
        StemmaError: the checkpoint cannot be continued in this way; says what differs.
    """
    if ROLE not in stage.inputs:
        return []
    branch = stage.inputs[ROLE]
    told = read_json(branch.file(BRANCH_FILE))
    _check(stage.name, told, model, training, total_steps)
    own = work.scratch / CHECKPOINT
    if not (work.path / CHECKPOINT).exists() and not any(own.glob("step-*")):
        expected = trained_with(
            stage.name,
            model,
            training,
            stage.inputs["tokenizer"].fingerprint,
            {role: artifact.fingerprint for role, artifact in stage.inputs.items()},
        )
        taken = branch.path / TAKEN
        take(taken, taken / CHECKPOINT, work.path, own, expected)
        work.progress.say(
            f"goes on from step {told['step']} of {told['run']}, trained by {told['trained_by'][:12]}"
        )
    shutil.copyfile(branch.file(BRANCH_FILE), work.path / BRANCH_FILE)
    return history(work.path)


def take(source: Path, checkpoint: Path, path: Path, own: Path, expected: dict[str, Any]) -> None:
    """Take a checkpoint and the records up to it over into a stage's work folder.

    Logs first, the checkpoint last, in one rename: what is half taken over is not seen as anything.

    Args:
        source: the folder with the records.
        checkpoint: the checkpoint; files are hard-linked.
        path: the stage's work folder.
        own: where its checkpoints lie.
        expected: what the checkpoint is said to be trained with and from there; it says otherwise now.
    """
    state = read_json(checkpoint / EXTRA)["extra"]
    for name, position in logs_of(state).items():
        cut(source / f"{name}.jsonl", path / f"{name}.jsonl", position)
    own.mkdir(parents=True, exist_ok=True)
    target = step_folder(own, state["step"])
    temporary = draft_of(target)
    shutil.rmtree(temporary, ignore_errors=True)
    link_tree(checkpoint, temporary)
    replace_identity(temporary, expected)
    temporary.rename(target)


def link_tree(source: Path, target: Path) -> None:
    """Copy a checkpoint. Unlike ``shutil.copytree``, it raises what went wrong, at the first file.

    Raises:
        FileNotFoundError: it was deleted meanwhile.
    """
    target.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        (link_tree if entry.is_dir() else link)(entry, target / entry.name)


def link(source: Path, target: Path) -> None:
    """A checkpoint's files never change: a second name will do, where the file system has such."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)


def _check(
    stage: str, told: dict[str, Any], model: ModelConfig, training: TrainingConfig, total_steps: int
) -> None:
    """Refuse early, and in the profile's words, what the checkpoint's loader would refuse late."""
    former = told["history"][-1]["config"]
    settings = former.get("training") or next(
        section["training"]
        for section in former.values()
        if isinstance(section, dict) and "training" in section
    )
    problems = differences(former["model"], identity(model), "model")
    for field in ("name", "decay_embeddings"):
        mine = getattr(training.optimizer, field)
        problems += differences(settings["optimizer"][field], mine, f"optimizer.{field}")
    if (settings["precision"] == "fp32") != (
        training.precision == "fp32"
    ):  # 16-bit weights have fp32 masters
        problems += differences(settings["precision"], training.precision, "precision")
    if problems:
        raise StemmaError(
            f"{stage} cannot go on from step {told['step']} of run {told['run']!r} with weights or moments "
            f"of another kind: {'; '.join(problems)}. Leave these as they were, or branch at the stage's "
            f"beginning (--start-from {stage})"
        )
    if total_steps < told["step"]:
        raise StemmaError(
            f"{stage} has {total_steps} steps now, and is to go on from step {told['step']} of run "
            f"{told['run']!r}; branch from an earlier step, or give the stage more"
        )
