"""All measurements along the way of a language-model stage, and when each is due."""

from typing import Any

from data_pipeline.curriculum.plan import Plan
from pretrain.batch import Objective
from pretrain.engine import Engine
from pretrain.launch import Job
from pretrain.monitors.needle import NeedleTest
from pretrain.monitors.positions import PositionLosses
from pretrain.objective import LanguageModel
from stemma.core.progress import Progress

# isort: split
from megatron.core import parallel_state


class Monitors:
    """Every rank holds one and calls every method after the same step.

    Stages that do not train on a plan (SFT, RL) have no phases, and nothing is measured in them.

    Args:
        job: says what to measure (``job.training.monitor``).
        engine: holds the model.
        objective: what the stage trains on.
        progress: is told what was found.
    """

    def __init__(self, job: Job, engine: Engine, objective: Objective, progress: Progress) -> None:
        self.engine, self.progress = engine, progress
        self.every = job.training.monitor.positions_every
        self.plan: Plan | None = objective.plan if isinstance(objective, LanguageModel) else None
        self.positions: PositionLosses | None = None
        self.needles: NeedleTest | None = None
        if isinstance(objective, LanguageModel):
            self.phase_ends = {phase.first_step for phase in objective.plan.phases[1:]}
            tensor_rank = parallel_state.get_tensor_model_parallel_rank()
            if self.every:
                self.positions = PositionLosses(engine)
                if engine.is_last_stage and tensor_rank == 0:  # its peers see the same losses
                    objective.observe = self.positions.observe
            if job.training.monitor.needles and job.validation:
                self.needles = NeedleTest(job, engine)

    def before_step(self, step: int) -> list[dict[str, Any]]:
        """Step ``step`` (from 0) is about to be trained; returns lines as ``after_step`` does.

        A phase's end is measured here and not after its last step: a checkpoint of that step knows nothing
        of the plan that follows, so that training under another plan can go on from it.
        """
        if self.plan is None:
            return []
        found = self.end(step) if step in self.phase_ends else []
        if self.positions:
            self.positions.begin(self._length(step))
        return found

    def after_step(self, done: int) -> list[dict[str, Any]]:
        """``done`` steps are trained; returns the lines for ``monitors.jsonl``."""
        due = self.positions is not None and done % self.every == 0
        return self._positions(done) if due else []

    def end(self, done: int) -> list[dict[str, Any]]:
        """The phase, or the stage, ended with ``done`` steps; returns lines as ``after_step`` does."""
        return self._positions(done) + self._needles(done)

    def _positions(self, done: int) -> list[dict[str, Any]]:
        found = self.positions.end(done) if self.positions else None
        return [found] if found else []

    def _needles(self, done: int) -> list[dict[str, Any]]:
        found = self.needles.measure(done, self._length(done - 1)) if self.needles else None
        if not found:
            return []
        self.progress.say(
            f"needle test at {found['sequence_length']} tokens: {found['found']:.0%} found, a number "
            f"read before is {found['gain']:+.2f} nats a digit likelier"
        )
        return [found]

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state that goes into the checkpoint. Every rank has to call it."""
        return {"positions": self.positions.state_dict()} if self.positions else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        if self.positions and "positions" in state:
            self.positions.load_state_dict(state["positions"])

    def _length(self, step: int) -> int:
        assert self.plan is not None
        return self.plan.phases[self.plan.batch(step).phase].sequence_length
