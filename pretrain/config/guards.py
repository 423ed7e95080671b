"""What happens when a step goes wrong."""

from typing import Literal

from pydantic import Field

from stemma.core.config import Config

Applied = Literal["skip", "rewind", "stop"]
Policy = Literal["record", "skip", "rewind", "stop"]


class GuardConfig(Config):
    """What counts as a step gone wrong, and what is done about it. What it read is always written down.

    ``record`` applies the step all the same; ``skip`` reads it without applying it; ``rewind`` goes back to a
    checkpoint before it and reads the steps around it without applying them; ``stop`` ends the stage.
    """

    not_finite: Applied = Field("skip", description="loss or gradient is NaN or infinite")
    loss_spike: Policy = Field("record", description="the loss jumps far above what it was")
    grad_norm_outlier: Policy = Field("record", description="the gradient is far larger than it was")
    window: int = Field(
        64,
        ge=8,
        description="steps before that tell what is usual; each phase of the plan begins anew",
    )
    deviations: float = Field(
        10.0, gt=0, description="robust standard deviations above the median from which a step is unusual ..."
    )
    loss_jump: float = Field(0.3, ge=0, description="... if the loss is also so far above the median, nats")
    grad_norm_ratio: float = Field(
        4.0, ge=1, description="... if the gradient's norm is also so many times the median"
    )
    rewind_steps: int = Field(
        8,
        ge=1,
        description="steps a rewind leaves unapplied: the one that went wrong and those before it",
    )
    limit: int = Field(5, ge=0, description="steps skipped, and rewinds, after which the stage gives up")

    @property
    def reach(self) -> int:
        """Steps before the newest checkpoint that a rewind may have to go back to."""
        policies = (self.not_finite, self.loss_spike, self.grad_norm_outlier)
        return self.rewind_steps - 1 if "rewind" in policies else 0
