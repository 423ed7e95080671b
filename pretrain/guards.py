"""Steps that went wrong: found, written down with the documents they read, and dealt with.

A step is judged between its backward pass and its update, by figures that all ranks agree on: its loss and
the norm of its gradient. What is usual is the median of the steps before, and how far from it is far their
median absolute deviation: one earlier outlier moves neither. Everything a judgement rests on is in the
checkpoint, so a resumed run judges alike.
"""

import math
from collections import deque
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch.distributed as dist

from pretrain.batch import StepBatch
from pretrain.config import GuardConfig
from pretrain.config.guards import Policy
from pretrain.engine import Engine, StepResult
from stemma.core.errors import StageFailed

Kind = Literal["not_finite", "loss_spike", "grad_norm_outlier"]

NORMAL = 1.4826  # median absolute deviations to the standard deviation of a normal distribution
FLAT = 1e-3  # of the median: the least deviation assumed, however flat a curve is
SEVERITY: list[Policy] = ["record", "skip", "rewind", "stop"]
OUTCOMES: dict[Policy, str] = {
    "record": "stands out",
    "skip": "was not applied",
    "rewind": "is gone back from",
    "stop": "stops the stage",
}
OVERFLOWS = 64  # fp16 overflows in a row; each but the first halves the loss scale


@dataclass(frozen=True)
class Finding:
    """What is wrong with a step.

    Attributes:
        kind: of what sort it is.
        policy: what is to be done, by the profile.
        value: the loss or the gradient's norm.
        usual: median of the steps before; None where it plays no part.
        deviations: robust standard deviations above it.
    """

    kind: Kind
    policy: Policy
    value: float
    usual: float | None = None
    deviations: float | None = None

    @property
    def text(self) -> str:
        """For people."""
        if self.kind == "not_finite":
            return "loss or gradient was not finite"
        what = "loss" if self.kind == "loss_spike" else "gradient norm"
        return f"{what} {self.value:.4g} where {self.usual:.4g} was usual ({self.deviations:.0f} deviations)"


class Recent:
    """The last values of a figure, finite ones only."""

    def __init__(self, window: int) -> None:
        self.values: deque[float] = deque(maxlen=window)
        self.settled = window // 4  # fewer say little of what is usual

    def compare(self, value: float) -> tuple[float, float]:
        """The median, and how many robust standard deviations a value lies above it.

        Without enough values before it, every value is the usual one.
        """
        if len(self.values) < self.settled:
            return value, 0.0
        usual = median(self.values)
        spread = NORMAL * median(abs(each - usual) for each in self.values)
        return usual, (value - usual) / max(spread, FLAT * abs(usual), 1e-12)


class Guards:
    """Judges the steps of one stage. Every rank holds one and comes to the same verdicts.

    Args:
        config: what is unusual, and what is done about it.
        precision: of the stage; with fp16 a gradient that overflows is no incident.
    """

    def __init__(self, config: GuardConfig, precision: str) -> None:
        self.config, self.precision = config, precision
        self.phase = 0
        self.overflows = 0
        self.loss, self.grad_norm = Recent(config.window), Recent(config.window)

    def enter(self, phase: int) -> None:
        """Say which phase of the data the next step is of: what was usual in another one is so no more."""
        if phase != self.phase:
            self.phase = phase
            self.loss.values.clear()
            self.grad_norm.values.clear()

    def judge(self, loss: float, grad_norm: float) -> Finding | None:
        """Judge a step whose loss and gradient are finite, before it is applied. None: nothing is wrong."""
        found = []
        usual, deviations = self.loss.compare(loss)
        if deviations > self.config.deviations and loss > usual + self.config.loss_jump:
            found.append(Finding("loss_spike", self.config.loss_spike, loss, usual, deviations))
        usual, deviations = self.grad_norm.compare(grad_norm)
        if deviations > self.config.deviations and grad_norm > usual * self.config.grad_norm_ratio:
            policy = self.config.grad_norm_outlier
            found.append(Finding("grad_norm_outlier", policy, grad_norm, usual, deviations))
        return max(found, key=lambda finding: SEVERITY.index(finding.policy), default=None)

    def judge_unapplied(self, result: StepResult) -> Finding | None:
        """Judge a step that the engine left unapplied by itself."""
        value = result.loss if not math.isfinite(result.loss) else result.grad_norm
        if self.precision == "fp16" and math.isfinite(result.loss):
            self.overflows += 1  # a dynamic loss scale finds its level by overflowing now and then ...
            if self.overflows <= OVERFLOWS:
                return None  # ... but it is at its smallest long before this many in a row
        return Finding("not_finite", self.config.not_finite, value)

    def observe(self, result: StepResult) -> None:
        """Take a step into what is usual, whatever was found: a level that lasts becomes the usual one."""
        for recent, value in ((self.loss, result.loss), (self.grad_norm, result.grad_norm)):
            if math.isfinite(value):
                recent.values.append(value)
        if math.isfinite(result.grad_norm):
            self.overflows = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-able and exact."""
        return {
            "phase": self.phase,
            "overflows": self.overflows,
            "loss": [value.hex() for value in self.loss.values],
            "grad_norm": [value.hex() for value in self.grad_norm.values],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.phase, self.overflows = state["phase"], state["overflows"]
        self.loss.values.extend(map(float.fromhex, state["loss"]))
        self.grad_norm.values.extend(map(float.fromhex, state["grad_norm"]))


def incident(
    step: int, finding: Finding, result: StepResult, sha256: str, batch: list[dict[str, Any]]
) -> dict[str, Any]:
    """The line of ``incidents.jsonl``: a function of the training alone, as receipts are.

    Args:
        step: counted from 0.
        finding: what is wrong with it.
        result: its figures.
        sha256: of its batch.
        batch: where its rows come from, of all ranks.
    """
    return {
        "step": step,
        **{name: value for name, value in asdict(finding).items() if name != "value" and value is not None},
        "loss": repr(result.loss),
        "grad_norm": repr(result.grad_norm),
        "batch_sha256": sha256,
        "batch": batch,
    }


def pedigree(batch: StepBatch, engine: Engine) -> list[dict[str, Any]]:
    """Where a step's rows come from, in the batch's order, with their documents. Every rank calls it."""
    rows = batch.pedigree
    if batch.documents is not None:
        rows = [{**row, "documents": read} for row, read in zip(rows, batch.documents(), strict=True)]
    if engine.data_size == 1:
        return rows
    gathered: list[Any] = [None] * engine.world_size
    dist.all_gather_object(gathered, (engine.data_rank, rows))
    by_rank = dict(gathered)  # ranks of one model replica hold the same rows
    return [row for rank in sorted(by_rank) for row in by_rank[rank]]


def stopped(stage: str, step: int, finding: Finding, where: object) -> StageFailed:
    """The error of a step that the profile wants the stage to stop at."""
    return StageFailed(
        f"{stage}: {finding.text} in step {step}, and guards.{finding.kind} is `stop`. What it read is "
        f"listed in {where} (`stemma training incidents`). The checkpoints before it are kept. To go on, "
        f"lower the learning rate, or set guards.{finding.kind} to skip or rewind."
    )


def gave_up(stage: str, step: int, finding: Finding, limit: int, where: object) -> StageFailed:
    """The error of one incident too many."""
    return StageFailed(
        f"{stage}: {finding.text} in step {step}, the last of {limit + 1} steps to be skipped or gone back "
        f"from; guards.limit is {limit}. What they read is listed in {where} "
        "(`stemma training incidents`). Lower the learning rate, or look at these documents."
    )
