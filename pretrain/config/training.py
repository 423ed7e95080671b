"""How one stage trains."""

from typing import Self

from pydantic import Field, model_validator

from pretrain.config.guards import GuardConfig
from pretrain.config.loss import LossConfig
from pretrain.config.metrics import MetricsConfig
from pretrain.config.model import ModelConfig
from pretrain.config.monitor import MonitorConfig
from pretrain.config.optimizer import OptimizerConfig
from pretrain.config.precision import FP8Config, LossScaleConfig, Precision
from pretrain.config.schedule import ScheduleConfig
from stemma.core.config import Config, execution_field


class TrainingConfig(Config):
    """How one stage trains. The number of steps is not here: the plan (or the objective) fixes it."""

    seed: int = Field(1234, ge=0, lt=2**31, description="seed of the initial weights")
    micro_batch_size: int = execution_field(
        8, gt=0, description="sequences in one forward pass, at the base length"
    )
    global_batch_size: int = Field(
        gt=0, description="sequences in one optimizer step, at the stage's base length"
    )
    schedule: ScheduleConfig = Field(description="learning rate over the stage")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW and clipping")
    loss: LossConfig = Field(LossConfig(), description="what is minimized over next tokens")
    precision: Precision = Field(
        "fp32",
        description="number format of the matrix products; fp8 needs a GPU that has it, or fp8.simulate",
    )
    fp8: FP8Config = Field(FP8Config(), description="scaling, with precision: fp8")
    loss_scale: LossScaleConfig = Field(LossScaleConfig(), description="with precision: fp16")
    guards: GuardConfig = Field(GuardConfig(), description="what happens when a step goes wrong")
    monitor: MonitorConfig = Field(MonitorConfig(), description="what is measured along the way")
    metrics: MetricsConfig = execution_field(
        MetricsConfig(), description="which figures are told along the way, and to whom"
    )
    rope_theta: float | None = Field(
        None,
        gt=0,
        description="base of the rotary frequencies; null: that of the stage before, at first the model's",
    )
    carry_optimizer: bool = Field(
        True, description="start from the moments of the stage before; false: from zero"
    )
    validation_tokens: int = Field(
        16_384, gt=0, description="tokens per domain that bits per byte are measured on before and after"
    )
    validation_length: int = Field(
        256,
        gt=0,
        description="positions of a validation window; the same in all stages, so that their figures compare",
    )
    checkpoint_every: int = execution_field(50, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = execution_field(2, ge=1, description="checkpoints kept while the stage trains")
    keep_every: int = execution_field(
        0, ge=0, description="steps between checkpoints that are kept for good (milestones); 0: none"
    )
    async_checkpoints: bool = execution_field(
        True, description="write checkpoints beside the training, which waits for the copy only"
    )
    recompute: bool = execution_field(
        False, description="keep each layer's input only and compute the rest again in the backward pass"
    )

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        return self


class PretrainConfig(Config):
    """One pretraining stage: which model, trained how."""

    model: ModelConfig = Field(description="the model's shape")
    training: TrainingConfig = Field(description="how this stage trains it")
