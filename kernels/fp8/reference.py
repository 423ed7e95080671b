"""Quantise and dequantise as the FP8 training recipes of Transformer Engine 2 do, on any device.

The formats are E4M3 and E5M2 of arXiv 2209.05433 (table 1); a cast rounds to the nearest value, ties to even,
and saturates. A recipe says which elements share a scale and how it follows from their largest magnitude
(*amax*):

=========== ================== =================================== ==============================
recipe      weights            inputs and output gradients         scale
=========== ================== =================================== ==============================
tensorwise  tensor             tensor                              largest / amax
delayed     tensor             tensor                              largest / amax of past steps
blockwise   128 x 128          1 x 128 along the contraction       power of two below that
mxfp8       1 x 32, likewise   1 x 32 along the contraction        E8M0: a power of two
=========== ================== =================================== ==============================

Blocks run along the dimension that a product sums over, so a tensor used in two products is quantised twice,
each time from the original. ``blockwise`` is the scaling of DeepSeek-V3 (arXiv 2412.19437, section 3.3.2),
``mxfp8`` that of arXiv 2506.08027 with its scale rounded up, so that no element saturates.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Recipe = Literal["tensorwise", "delayed", "blockwise", "mxfp8"]

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {E4M3: 448.0, E5M2: 57344.0}
"""Largest finite value of each format."""


def quantise(
    x: Tensor,
    recipe: Recipe,
    dtype: torch.dtype,
    along: int,
    square: bool = False,
    scale: Tensor | None = None,
) -> Tensor:
    """A matrix as a product in 8 bits sees it.

    Args:
        x: ``[rows, columns]``, any floating point type.
        recipe: what shares a scale.
        dtype: ``E4M3`` or ``E5M2``.
        along: the dimension (0 or 1) that the product sums over.
        square: ``blockwise`` weights: blocks of 128 x 128.
        scale: of the whole tensor, a scalar, for ``delayed``.

    Returns:
        fp32 of the same shape.
    """
    if recipe == "delayed":
        if scale is None:
            raise ValueError("delayed scaling needs the scale that followed from past steps")
        return cast(x, scale, dtype)
    if recipe == "tensorwise":
        return cast(x, scale_for(x.detach().abs().amax().float(), dtype), dtype)
    length = 32 if recipe == "mxfp8" else 128
    block = (length, length) if square and recipe == "blockwise" else (1, length) if along else (length, 1)
    amax = block_amax(x, block)
    shared = e8m0_scale_for(amax, dtype) if recipe == "mxfp8" else power_of_two_below(scale_for(amax, dtype))
    return cast(x, _spread(shared, block, x.shape), dtype)


def cast(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply by ``scale``, round to the format, divide again. fp32; NaN stays NaN, infinity saturates."""
    largest = LARGEST[dtype]
    rounded = (x.float() * scale).clamp_(-largest, largest).to(dtype)  # torch's cast does not saturate
    return rounded.float().mul_(1.0 / scale)


def scale_for(amax: Tensor, dtype: torch.dtype) -> Tensor:
    """The fp32 factor that brings ``amax`` to the format's largest value; 1 where it is 0 or not finite."""
    scale = (LARGEST[dtype] / amax).clamp(max=torch.finfo(torch.float32).max)
    return torch.where((amax > 0) & amax.isfinite(), scale, 1.0)


def power_of_two_below(scale: Tensor) -> Tensor:
    """Positive normal fp32 numbers without their mantissa."""
    return (scale.view(torch.int32) & 0x7F800000).view(torch.float32)


def e8m0_scale_for(amax: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of the 8-bit exponent stored with an MXFP8 block: ``amax / largest`` rounded up to a power
    of two, from 2^-127 to 2^127."""
    mantissa, exponent = torch.frexp(amax * (1.0 / LARGEST[dtype]))  # mantissa in [0.5, 1)
    exponent = exponent - (mantissa == 0.5).int()
    exponent = torch.where(amax.isfinite(), exponent, 127).clamp(-127, 127)
    return torch.ldexp(torch.ones_like(amax), torch.where(amax > 0, -exponent, 0))


def block_amax(x: Tensor, block: tuple[int, int]) -> Tensor:
    """Largest magnitude in each block of a matrix; blocks at the far edges may be smaller.

    Returns:
        ``[ceil(rows / block rows), ceil(columns / block columns)]`` fp32.
    """
    (rows, columns), (height, width) = x.shape, block
    padded = F.pad(x.detach().abs(), (0, -columns % width, 0, -rows % height))
    tiles = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width)
    return tiles.amax(dim=(1, 3)).float()


def _spread(scale: Tensor, block: tuple[int, int], shape: torch.Size) -> Tensor:
    """One scale per block -> one per element."""
    (height, width), (rows, columns) = block, shape
    return scale.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :columns]
