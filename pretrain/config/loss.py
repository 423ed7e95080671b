"""The training loss of a language-model stage."""

from typing import Literal

from pydantic import Field

from stemma.core.config import Config


class LossConfig(Config):
    """What is minimized over next tokens. Validation is always plain cross entropy."""

    name: Literal["cross_entropy", "mile"] = Field(
        "cross_entropy",
        description="cross_entropy, or mile: tokens the model is unsure of weigh more (arXiv 2310.19531)",
    )
    gamma: float = Field(1.0, ge=0, description="mile: power of (sigma + entropy); 0 is cross entropy")
    sigma: float = Field(1.0, gt=0, description="mile: added to the entropy, nats")
    z_loss: float = Field(
        0.0, ge=0, description="coefficient of the mean squared log-normalizer of the softmax; 0: none"
    )
