"""Learning rate over a stage, and from one stage to the next."""

from typing import Literal, Self

from pydantic import Field, model_validator

from stemma.core.config import Config, execution_field

ScheduleShape = Literal["constant", "linear", "cosine", "wsd"]
DecayShape = Literal["linear", "cosine", "1-sqrt"]


class ScheduleConfig(Config):
    """Learning rate over the steps of one stage; ``pretrain.schedule.learning_rate`` is the function."""

    shape: ScheduleShape = Field(
        "constant",
        description="after the warm-up: stay, fall in a line or a cosine, or stay and then fall (wsd)",
    )
    peak_lr: float | None = Field(
        gt=0,
        description="learning rate at the end of the warm-up; null: the one that the stage before ended with",
    )
    start_lr: float = Field(0.0, ge=0, description="learning rate the warm-up starts from")
    end_lr: float = Field(0.0, ge=0, description="learning rate of the last step, for shapes that fall")
    warmup_steps: int = Field(0, ge=0, description="steps from start_lr to peak_lr")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="wsd only: share of the steps after the warm-up over which it falls"
    )
    decay: DecayShape = Field(
        "1-sqrt",
        description="wsd only: how it falls: in a line, a cosine, or as 1 minus the root of the time",
    )
    jump: bool = execution_field(
        False,
        description="without a warm-up, the stage may begin with another rate than the one before ended with",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("start_lr", "end_lr"):
            if self.peak_lr is not None and getattr(self, name) > self.peak_lr:
                raise ValueError(f"{name} is {getattr(self, name)}, above peak_lr {self.peak_lr}")
        return self

    @property
    def peak(self) -> float:
        """``peak_lr`` as a number.

        Raises:
            ValueError: it is null, and nothing has put in the stage before.
        """
        if self.peak_lr is None:
            raise ValueError("peak_lr is null: the learning rate that the stage before ended with is needed")
        return self.peak_lr

    @property
    def final_lr(self) -> float:
        """Learning rate of the last step."""
        return self.peak if self.shape == "constant" else self.end_lr
