"""Which checkpoint a stage goes on from, when it makes one, and which ones are kept."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint import list_checkpoints, prune, step_folder
from pretrain.engine import Engine
from pretrain.launch import Job
from stemma.core.errors import DamagedError
from stemma.core.files import sync_folder
from stemma.core.progress import Progress


class Checkpoints:
    """The checkpoints of one stage. Every rank holds one of these; rank 0 alone renames and deletes.

    Args:
        job: says where the stage works and how many checkpoints it keeps.
        engine: is saved and loaded.
        progress: is told where training goes on, and what was damaged.
    """

    def __init__(self, job: Job, engine: Engine, progress: Progress) -> None:
        self.job, self.engine, self.progress = job, engine, progress
        self.artifact = Path(job.path)
        self.folder = Path(job.scratch) / "checkpoint"

    def load_last(self) -> dict[str, Any] | None:
        """Load the last good checkpoint and return what it was saved with; None: there is none.

        A damaged one is set aside for inspection, and the one before it is taken.
        """
        damaged = False
        for folder in map(Path, self._from_first(self._candidates())):
            try:
                state = self.engine.load(folder)
            except DamagedError as error:
                damaged = True
                self.progress.say(f"a damaged checkpoint is passed over: {error}")
                if self.engine.rank == 0:
                    self._set_aside(folder)
                continue
            where = step_folder(Path("checkpoint"), state["step"])
            self.progress.say(f"continuing {self.job.stage} from step {state['step']} ({where})")
            return state
        if damaged:
            self.progress.say(f"no good checkpoint of {self.job.stage} is left; it starts from its beginning")
        return None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of a step and drop the oldest."""
        self.engine.save(step_folder(self.folder, step), state)
        if self.engine.rank == 0:
            prune(self.folder, self.job.training.keep_checkpoints)

    def finish(self, step: int) -> None:
        """Make the last step's checkpoint the artifact's own. Safe to repeat; rank 0 calls it."""
        final = step_folder(self.folder, step)
        if final.exists():  # else an earlier attempt moved it and was killed before sealing
            os.rename(final, self.artifact / "checkpoint")
            sync_folder(self.artifact)

    def _candidates(self) -> list[str]:
        """Where this stage may be continued from, best first: a finished stage's checkpoint was moved."""
        final = [self.artifact / "checkpoint"] if (self.artifact / "checkpoint").exists() else []
        return [str(folder) for folder in [*final, *reversed(list_checkpoints(self.folder))]]

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
