"""The steps at which a stage's loss jumps, and what they read.

A jump is measured against the steps before it, robustly: a step's loss minus the median of a window before
it, in units of that window's median absolute deviation (x 1.4826, which makes it the standard deviation of a
normal distribution). One earlier spike moves neither.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.inspection.lookup import PLAN, stage_folder
from data_pipeline.inspection.samples import StepView, trace_step
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from stemma.core.files import read_jsonl

WINDOW = 32  # steps a jump is measured against
SETTLED = 4  # steps that must come before: less say nothing of what is usual
NORMAL = 1.4826
FLAT = 1e-3  # of the usual loss: the least spread a window is taken to have, however flat it is


@dataclass(frozen=True)
class Spike:
    """A jump of the loss.

    Attributes:
        step: counted from 0.
        loss: of the step; infinite where it was not finite.
        usual: median of the steps before.
        deviations: how far above it, in robust standard deviations.
        above: losses of the step by source or family that stand out most against their own steps before, as
            ``(name, loss, usual)``.
        view: its rows and their documents; None for a stage without a plan.
    """

    step: int
    loss: float
    usual: float
    deviations: float
    above: list[tuple[str, float, float]] = field(default_factory=list)
    view: StepView | None = None


def find_spikes(losses: list[float], count: int, window: int = WINDOW) -> list[Spike]:
    """The largest jumps of a loss curve, largest first.

    Args:
        losses: of the steps from 0 on; NaN and infinities count as jumps without bound.
        count: how many to return.
        window: steps before a step that it is measured against.
    """
    found = []
    for step in range(SETTLED, len(losses)):
        before = [loss for loss in losses[max(0, step - window) : step] if math.isfinite(loss)]
        if len(before) < SETTLED:
            continue
        usual = float(np.median(before))
        spread = NORMAL * float(np.median(np.abs(np.array(before) - usual)))
        loss = losses[step] if math.isfinite(losses[step]) else math.inf
        floor = FLAT * abs(usual) + 1e-12
        found.append(Spike(step, loss, usual, (loss - usual) / max(spread, floor)))
    rising = [spike for spike in found if spike.loss > spike.usual]
    return sorted(rising, key=lambda spike: (-spike.deviations, -spike.loss, spike.step))[:count]


def spikes(
    artifacts: Mapping[str, Artifact], working: Mapping[str, Path], stage: str, count: int
) -> list[Spike]:
    """The largest jumps of a stage's loss with the documents they read.

    Args:
        artifacts: the run's sealed ones, by node name.
        working: folders of those being made.
        stage: any training stage that has begun, SFT and RL too.
        count: how many.

    Raises:
        StemmaError: the stage has not begun, or has too few steps.
    """
    folder = stage_folder(artifacts, working, stage)
    receipts = list(read_jsonl(folder / "receipts.jsonl"))
    if len(receipts) <= SETTLED:
        raise StemmaError(
            f"stage {stage} has {len(receipts)} steps; a jump is told from what is usual after {SETTLED}"
        )
    metrics = list(read_jsonl(folder / "metrics.jsonl"))
    found = []
    for spike in find_spikes([float.fromhex(line["loss"]) for line in receipts], count):
        view = trace_step(artifacts, stage, spike.step, folder) if PLAN + stage in artifacts else None
        found.append(
            Spike(spike.step, spike.loss, spike.usual, spike.deviations, _above(metrics, spike.step), view)
        )
    return found


def _above(
    metrics: list[dict[str, float | None]], step: int, count: int = 4
) -> list[tuple[str, float, float]]:
    """Sources of a step whose loss is furthest above their own median before."""
    if step >= len(metrics):
        return []
    found = []
    for name, loss in metrics[step].items():
        if not name.startswith("loss/") or loss is None:
            continue
        before = [value for line in metrics[:step] if (value := line.get(name)) is not None][-WINDOW:]
        if before and loss > (usual := float(np.median(before))):
            found.append((name.removeprefix("loss/"), loss, usual))
    return sorted(found, key=lambda item: item[2] - item[1])[:count]
