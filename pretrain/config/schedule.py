"""Learning rate over a stage."""

from typing import Literal, Self

from pydantic import Field, model_validator

from stemma.core.config import Config

ScheduleShape = Literal["constant", "linear", "cosine", "wsd"]


class ScheduleConfig(Config):
    """Learning rate over the steps of one stage; ``pretrain.schedule.learning_rate`` is the function."""

    shape: ScheduleShape = Field(
        "constant",
        description="after the warm-up: stay, fall in a line or a cosine, or stay and then fall (wsd)",
    )
    peak_lr: float = Field(gt=0, description="learning rate at the end of the warm-up")
    start_lr: float = Field(0.0, ge=0, description="learning rate the warm-up starts from")
    end_lr: float = Field(0.0, ge=0, description="learning rate of the last step, for shapes that fall")
    warmup_steps: int = Field(0, ge=0, description="steps from start_lr to peak_lr")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="wsd only: share of the steps after the warm-up over which it falls"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("start_lr", "end_lr"):
            if getattr(self, name) > self.peak_lr:
                raise ValueError(f"{name} is {getattr(self, name)}, above peak_lr {self.peak_lr}")
        return self
