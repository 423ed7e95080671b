"""Number formats of the matrix products."""

from typing import Literal, Self

from pydantic import Field, model_validator

from stemma.core.config import Config

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
FP8Recipe = Literal["tensorwise", "delayed", "blockwise", "mxfp8"]
FP8Format = Literal["hybrid", "e4m3"]


class FP8Config(Config):
    """How numbers are scaled into 8 bits, with ``precision: fp8``: the layers' linear products, forward and
    backward. Everything else is as with bf16."""

    recipe: FP8Recipe = Field(
        "tensorwise",
        description="what shares a scale: the tensor (tensorwise: by its largest value; delayed: by that of "
        "past steps), blocks of 128 or 128 x 128 (blockwise), or of 32 (mxfp8, Blackwell)",
    )
    format: FP8Format | None = Field(
        None,
        description="e4m3 for all, or hybrid: e5m2 for gradients; null: hybrid for tensorwise and delayed, "
        "e4m3 for blockwise and mxfp8",
    )
    num_layers_at_start_in_bf16: int = Field(0, ge=0, description="first layers that stay in bf16")
    num_layers_at_end_in_bf16: int = Field(0, ge=0, description="last layers that stay in bf16")
    amax_history_len: int = Field(
        1024, ge=1, description="delayed: steps whose largest value the scale follows from"
    )
    margin: int = Field(0, ge=0, description="delayed: powers of two kept free above the largest value")
    simulate: bool = Field(
        False, description="quantise and dequantise around ordinary products: the numerics, on any device"
    )

    @model_validator(mode="after")
    def _delayed_in_all_layers(self) -> Self:
        if self.recipe == "delayed" and (self.num_layers_at_start_in_bf16 or self.num_layers_at_end_in_bf16):
            raise ValueError(
                "recipe delayed has its scales updated for all layers together, so none can stay in bf16; "
                "set num_layers_at_start_in_bf16 and num_layers_at_end_in_bf16 to 0, or take another recipe"
            )
        return self

    @property
    def chosen_format(self) -> FP8Format:
        """The format, with the recipe's usual one where none is given."""
        if self.format is not None:
            return self.format
        return "hybrid" if self.recipe in ("tensorwise", "delayed") else "e4m3"


class LossScaleConfig(Config):
    """Dynamic loss scaling, with ``precision: fp16``: gradients below 6e-8 would be lost."""

    initial: float = Field(65_536.0, gt=0, description="factor on the loss of the first step")
    minimum: float = Field(1.0, gt=0, description="smallest factor")
    window: int = Field(1000, gt=0, description="steps without an overflow after which the factor doubles")
    hysteresis: int = Field(2, gt=0, description="overflows before the factor is halved")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.initial < self.minimum:
            raise ValueError(f"initial is {self.initial}, below minimum {self.minimum}")
        return self
