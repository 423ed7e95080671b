"""Steps that went wrong: found, written down with the documents they read, skipped or given up on."""

import math
from typing import Any

from pretrain.batch import StepBatch
from pretrain.engine import StepResult
from stemma.core.errors import StageFailed

SKIP_LIMIT = 5
"""Steps of one stage whose loss or gradient may be NaN or infinite before the stage gives up."""


def incident(step: int, batch: StepBatch, result: StepResult, precision: str) -> dict[str, Any] | None:
    """The line of ``incidents.jsonl`` for a step that was not applied; None: nothing is wrong."""
    finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
    overflow = result.skipped and precision == "fp16" and math.isfinite(result.loss)
    if finite or overflow:  # a dynamic loss scale finds its level by overflowing now and then
        return None
    return {
        "step": step,
        "loss": repr(result.loss),
        "grad_norm": repr(result.grad_norm),
        "batch_sha256": batch.sha256,
        "batch": batch.pedigree,
    }


def give_up(stage: str, step: int, skipped: int, where: object) -> None:
    """Raise once too many steps were not applied.

    Raises:
        StageFailed: says where their batches are listed.
    """
    if skipped > SKIP_LIMIT:
        raise StageFailed(
            f"{stage}: loss or gradient was not finite in {skipped} steps, the last one step {step}. "
            f"Their batches are listed in {where}. Lower the learning rate, or look at these documents."
        )
