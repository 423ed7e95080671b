"""The optimizer of a stage."""

from pydantic import Field

from stemma.core.config import Config


class OptimizerConfig(Config):
    """AdamW. Norms are not decayed."""

    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    adam_eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay, times the learning rate each step")
    clip_grad: float = Field(
        1.0, ge=0, description="largest norm of the gradient over all parameters; 0: no clipping"
    )
