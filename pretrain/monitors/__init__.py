"""What is measured of a model while a stage trains it; nothing here changes what is trained."""

from typing import Any

from pretrain.batch import Objective
from pretrain.engine import Engine
from pretrain.launch import Job
from stemma.core.progress import Progress


class Monitors:
    """All measurements along the way. Every rank calls every method after the same step.

    Args:
        job: says what to measure (``job.training.monitor``).
        engine: holds the model.
        objective: what the stage trains on.
        progress: is told what was found.
    """

    def __init__(self, job: Job, engine: Engine, objective: Objective, progress: Progress) -> None:
        self.job, self.engine, self.objective, self.progress = job, engine, objective, progress

    def after_step(self, step: int) -> None:
        """``step`` steps are done."""

    def at_checkpoint(self, step: int) -> None:
        """A checkpoint of ``step`` steps is about to be written."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state that goes into the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
