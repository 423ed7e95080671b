"""The optimizer of a stage."""

from typing import Literal

from pydantic import Field

from stemma.core.config import Config


class OptimizerConfig(Config):
    """AdamW, or Muon with AdamW for what is no hidden matrix. Norms are never decayed."""

    name: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw; or muon for the matrices of the layers, where AdamW keeps embeddings, output and "
        "norms. Muon's steps have the size of AdamW's: the same rates and decay serve both",
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    adam_eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="muon: decay of the momentum (Nesterov's)")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay, times the learning rate each step")
    decay_embeddings: bool = Field(True, description="whether embeddings and the output layer decay too")
    clip_grad: float = Field(
        1.0, ge=0, description="largest norm of the gradient over all parameters; 0: no clipping"
    )
