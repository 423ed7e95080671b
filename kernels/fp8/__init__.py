"""FP8 training recipes: what a tensor is after it was scaled, rounded to 8 bits and scaled back."""

import torch
from torch import Tensor

from kernels.dispatch import in_triton
from kernels.fp8 import reference
from kernels.fp8.reference import Recipe

__all__ = ["quantise"]


def quantise(
    x: Tensor,
    recipe: Recipe,
    dtype: torch.dtype,
    along: int,
    square: bool = False,
    scale: Tensor | None = None,
) -> Tensor:
    """See ``kernels.fp8.reference``; on CUDA ``blockwise`` is one kernel in Triton, with the same bits."""
    if recipe == "blockwise" and in_triton(x):
        from kernels.fp8 import triton_kernels

        return triton_kernels.quantise_dequantise(x.detach(), dtype, along, square)
    return reference.quantise(x, recipe, dtype, along, square, scale)
