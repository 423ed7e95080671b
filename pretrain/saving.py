"""Which checkpoint a stage goes on from, when it makes one, and which ones are kept."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint import list_checkpoints, step_folder, step_of
from pretrain.checkpoint.chain import CHECKPOINTS, Chain
from pretrain.checkpoint.folder import RECORD
from pretrain.checkpoint.retention import MILESTONES, is_milestone, prune, remove
from pretrain.engine import Engine
from pretrain.launch import Job
from pretrain.trained import trained_with
from stemma.core.artifact import MANIFEST, STAGE_RECORD
from stemma.core.errors import DamagedError
from stemma.core.files import read_json, sync_folder
from stemma.core.progress import Progress


class Checkpoints:
    """The checkpoints of one stage. Every rank holds one of these; rank 0 alone renames and deletes.

    Args:
        job: says where the stage works, when it saves and what it keeps.
        engine: is saved and loaded.
        total: the stage's steps.
        progress: is told where training goes on, and what was damaged.
    """

    def __init__(self, job: Job, engine: Engine, total: int, progress: Progress) -> None:
        self.job, self.engine, self.total, self.progress = job, engine, total, progress
        self.artifact = Path(job.path)
        self.folder = Path(job.scratch) / "checkpoint"
        self.trained = trained(job)
        self.chain = Chain(self.artifact / CHECKPOINTS if engine.rank == 0 else None)

    def load_last(self) -> dict[str, Any] | None:
        """Load the last good checkpoint and return what it was saved with; None: there is none.

        A damaged one is set aside for inspection, and the one before it is taken.

        Raises:
            StemmaError: it was trained otherwise than this job would; says how.
        """
        damaged = False
        for folder in map(Path, self._from_first(self._candidates())):
            try:
                state = self.engine.load(folder, trained=self.trained)
            except DamagedError as error:
                damaged = True
                self.progress.say(f"a damaged checkpoint is passed over: {error}")
                if self.engine.rank == 0:
                    self._set_aside(folder)
                continue
            record = read_json(folder / RECORD)
            self.chain.go_back(state["logs"].pop("checkpoints"), record, self.due(state["step"]))
            where = step_folder(Path("checkpoint"), state["step"])
            self.progress.say(f"continuing {self.job.stage} from step {state['step']} ({where})")
            return state
        if damaged:
            self.progress.say(f"no good checkpoint of {self.job.stage} is left; it starts from its beginning")
        return None

    def due(self, step: int) -> bool:
        """Whether the profile wants a checkpoint after a step: regularly, as milestones, and at the end."""
        every, keep_every = self.job.training.checkpoint_every, self.job.training.keep_every
        return step == self.total or step % every == 0 or is_milestone(step, keep_every)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save a step beside the training, and drop the oldest when that is done.

        Waits for the save before, and does not wait for this one unless the profile says so.

        Args:
            step: steps done.
            state: JSON, the training loop's own state, whose ``logs`` are their positions.

        Raises:
            StemmaError: this save or the one before could not be written.
        """
        self.engine.saver.wait()  # the writer of the save before adds its line to the chain
        beside = self.job.training.async_checkpoints
        self.engine.saver.begin(
            step_folder(self.folder, step),
            state | {"logs": state["logs"] | {"checkpoints": self.chain.position()}},
            trained=self.trained,
            record=partial(self.chain.record, step),
            saved=self._saved,
            copy=beside,
        )
        if not beside:
            self.engine.saver.wait()

    def close(self) -> None:
        """Wait until the last save is on the disk.

        Raises:
            StemmaError: it could not be written.
        """
        self.engine.saver.wait()
        self.chain.close()

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, so that the next ``load_last`` goes back before them."""
        self.engine.saver.wait()
        if self.engine.rank == 0:
            remove(folder for folder in self._unfinished() if step_of(folder) > step)

    def finish(self, step: int) -> None:
        """Make the last step's checkpoint and the milestones the artifact's own.

        Safe to repeat; rank 0 calls it.
        """
        self.close()
        for folder in list_checkpoints(self.folder):
            if step_of(folder) < step and is_milestone(step_of(folder), self.job.training.keep_every):
                target = self.artifact / MILESTONES / folder.name
                target.parent.mkdir(exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)  # of an attempt whose last checkpoint was damaged
                os.rename(folder, target)
        final = step_folder(self.folder, step)
        if final.exists():  # else an earlier attempt moved it and was killed before sealing
            os.rename(final, self.artifact / "checkpoint")
            sync_folder(self.artifact)

    def _saved(self, record: dict[str, Any]) -> None:
        """In the writer's thread, once a checkpoint is on the disk."""
        self.chain.append(record, self.due(record["step"]))
        if self.engine.rank == 0:
            training = self.job.training
            prune(self.folder, training.keep_checkpoints, training.keep_every, training.guards.reach)

    def _candidates(self) -> list[str]:
        """Where this stage may be continued from, best first: a finished stage's checkpoints were moved."""
        final = [self.artifact / "checkpoint"] if (self.artifact / "checkpoint").exists() else []
        return [str(folder) for folder in [*final, *reversed(self._unfinished())]]

    def _unfinished(self) -> list[Path]:
        """All but the artifact's last, oldest first: milestones may have been moved there already."""
        found = [*list_checkpoints(self.artifact / MILESTONES), *list_checkpoints(self.folder)]
        return sorted(found, key=step_of)

    def _set_aside(self, folder: Path) -> None:
        """Keep a damaged checkpoint for inspection, out of the way of the one that will take its name."""
        aside = self.folder / f".{folder.name}.damaged"
        self.folder.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)

    def _from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.engine.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]


def trained(job: Job) -> dict[str, Any]:
    """What a stage trains with and from: an attempt goes on from a checkpoint only if it is the same."""
    record = Path(job.path) / STAGE_RECORD
    stage = read_json(record) if record.exists() else {}
    tokenizer = read_json(Path(job.tokenizer) / MANIFEST)["fingerprint"]
    return trained_with(job.stage, job.model, job.training, tokenizer, stage.get("inputs", {}))
