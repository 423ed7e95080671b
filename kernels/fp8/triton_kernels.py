"""Blockwise FP8 in Triton: find each block's largest magnitude, its scale, and round, reading a matrix once.

The numerics are those of ``kernels.fp8.reference``, bit for bit. Rounding is spelled out on the bits of fp32,
so that it needs no hardware format, is the same when interpreted, and the cast to 8 bits after it is exact.

Interpreted against the reference and compiled for Hopper in tests; not run on a device, as none was at hand.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.fp8.reference import E4M3, LARGEST

SIDE, WARPS = 128, 8


@triton.jit
def quantise_kernel(
    x,
    out,
    inverse,
    rows,
    columns,
    stride_row,
    stride_column,
    inverse_stride,
    LARGEST: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    LEAST_EXPONENT: tl.constexpr,
    ALONG: tl.constexpr,
    SQUARE: tl.constexpr,
    DEQUANTISE: tl.constexpr,
    SIDE: tl.constexpr,
) -> None:
    """One program per square of SIDE x SIDE elements: one block, or SIDE of them."""
    top, left = tl.program_id(0), tl.program_id(1)
    row = (top * SIDE + tl.arange(0, SIDE))[:, None].to(tl.int64)
    column = (left * SIDE + tl.arange(0, SIDE))[None, :].to(tl.int64)
    inside = (row < rows) & (column < columns)
    value = tl.load(x + row * stride_row + column * stride_column, mask=inside, other=0.0).to(tl.float32)

    size = tl.abs(value)
    size = tl.where(value == value, size, float("inf"))  # a NaN, too, leaves its block unscaled
    if SQUARE:
        amax = tl.max(tl.max(size, 1, keep_dims=True), 0, keep_dims=True)
    else:
        amax = tl.max(size, ALONG, keep_dims=True)
    usable = (amax > 0.0) & (amax < float("inf"))
    scale = tl.div_rn(tl.full(amax.shape, LARGEST, tl.float32), tl.where(usable, amax, 1.0))
    scale = tl.minimum(scale, 3.4028234663852886e38)
    scale = (scale.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)  # a power of two
    scale = tl.where(usable, scale, 1.0)
    back = tl.div_rn(tl.full(amax.shape, 1.0, tl.float32), scale)

    scaled = value * scale
    held = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST)
    # The distance of neighbouring numbers of the format; adding 1.5 * 2^23 of it and taking that away again
    # rounds to a multiple of it, ties to even.
    exponent = tl.maximum(((held.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 127, LEAST_EXPONENT)
    magic = ((exponent - MANTISSA_BITS + 23 + 127) << 23).to(tl.float32, bitcast=True) * 1.5
    rounded = (held + magic) - magic
    rounded = tl.where(scaled == scaled, rounded, scaled)

    if DEQUANTISE:
        tl.store(out + row * columns + column, rounded * back, mask=inside)
    else:
        tl.store(out + row * columns + column, rounded.to(out.dtype.element_ty), mask=inside)
        if SQUARE:
            only = tl.arange(0, 1)[:, None] + tl.arange(0, 1)[None, :]
            tl.store(inverse + top * inverse_stride + left + only, back)
        elif ALONG == 1:
            tl.store(inverse + row * inverse_stride + left, back, mask=row < rows)
        else:
            tl.store(inverse + top * inverse_stride + column, back, mask=column < columns)


def quantise(x: Tensor, dtype: torch.dtype, along: int, square: bool = False) -> tuple[Tensor, Tensor]:
    """Cast a matrix to 8 bits with a scale per block, as a product of Hopper's tensor cores takes it.

    Args:
        x: ``[rows, columns]``, any floating point type.
        dtype: ``E4M3`` or ``E5M2``.
        along: the dimension (0 or 1) that the product sums over: blocks of 128 run along it.
        square: blocks of 128 x 128.

    Returns:
        ``[rows, columns]`` of ``dtype``, and the fp32 powers of two to multiply them with: ``[rows, columns /
        128]``, ``[rows / 128, columns]`` or, if square, both divided; rounded up.
    """
    blocks = triton.cdiv(x.shape[0], SIDE), triton.cdiv(x.shape[1], SIDE)
    shape = (blocks[0] if square or along == 0 else x.shape[0], blocks[1] if square or along else x.shape[1])
    inverse = torch.empty(shape, dtype=torch.float32, device=x.device)
    return _launch(x, torch.empty(x.shape, dtype=dtype, device=x.device), inverse, dtype, along, square)


def quantise_dequantise(x: Tensor, dtype: torch.dtype, along: int, square: bool = False) -> Tensor:
    """The matrix that ``quantise`` stands for, in fp32: ``blockwise`` of the reference."""
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    return _launch(x, out, None, dtype, along, square)[0]


def _launch(
    x: Tensor, out: Tensor, inverse: Tensor | None, dtype: torch.dtype, along: int, square: bool
) -> tuple[Tensor, Tensor]:
    kept = out if inverse is None else inverse  # where there is nothing to store, anything stands in
    quantise_kernel[triton.cdiv(x.shape[0], SIDE), triton.cdiv(x.shape[1], SIDE)](
        x,
        out,
        kept,
        *x.shape,
        *x.stride(),
        kept.shape[1],
        LARGEST=LARGEST[dtype],
        MANTISSA_BITS=3 if dtype == E4M3 else 2,
        LEAST_EXPONENT=-6 if dtype == E4M3 else -14,
        ALONG=along,
        SQUARE=square,
        DEQUANTISE=inverse is None,
        SIDE=SIDE,
        num_warps=WARPS,
    )
    return out, kept
