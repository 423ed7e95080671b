"""Number formats of the matrix products."""

from typing import Literal

from pydantic import Field

from stemma.core.config import Config

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
FP8Recipe = Literal["tensorwise", "delayed", "blockwise", "mxfp8"]


class FP8Config(Config):
    """How numbers are scaled into 8 bits, with ``precision: fp8``."""

    recipe: FP8Recipe = Field("tensorwise", description="what shares a scale, and when it is measured")
    simulate: bool = Field(
        False, description="quantise and dequantise around ordinary products: the numerics, on any device"
    )
