"""Softmax statistics of rows in Triton: the logits are read once forward, and become the gradient backward.

Functions as in ``kernels.cross_entropy.reference``; see there. A row's largest logit, sum and entropy come
from one pass that corrects the sums when it meets a larger logit (Milakov and Gimelshein 2018, arXiv
1805.02867). No softmax is stored: the backward pass computes it from the logits and writes the gradient over
them, as Liger-Kernel does (arXiv 2410.10989, section 3.2).

These kernels are interpreted against the reference and compiled for Hopper in tests. They have not run on a
device: none was at hand. ``STEMMA_TRITON=0`` has CUDA compute with the reference (``kernels.dispatch``).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 4096, 8


@triton.jit
def statistics_kernel(
    rows,
    ids,
    top_out,
    total_out,
    normalizer_out,
    disorder_out,
    target_out,
    stride,
    columns,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)  # elements of logits outgrow 32 bits
    at = rows + row * stride
    offsets = tl.arange(0, BLOCK)
    top = float("-inf")
    total = 0.0
    weighted = 0.0  # sum of exp(z - top) * (z - top)
    for start in range(0, columns, BLOCK):
        inside = start + offsets < columns
        z = tl.load(at + start + offsets, mask=inside, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(z, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing but -inf so far: all terms are 0
        lower = z - base
        e = tl.exp(lower)
        kept = tl.exp(top - base)
        if ENTROPY:
            moved = tl.maximum(top - base, -200.0)  # down there terms are 0, and 0 * inf would not be
            weighted = kept * (weighted + moved * total) + tl.sum(e * tl.maximum(lower, -200.0), 0)
        total = kept * total + tl.sum(e, 0)
        top = higher
    tl.store(normalizer_out + row, top + tl.log(total))
    # A part of the vocabulary that is all -inf has no share in the whole, and no NaN either.
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.where(total == 0.0, 1.0, total)
    tl.store(top_out + row, top)
    tl.store(total_out + row, total)
    if ENTROPY:
        tl.store(disorder_out + row, tl.log(total) - weighted / total)
    label = tl.load(ids + row)
    here = (label >= 0) & (label < columns)
    tl.store(target_out + row, tl.load(at + label, mask=here, other=0.0).to(tl.float32))


@triton.jit
def gradient_kernel(
    rows,
    into,
    ids,
    top,
    of_softmax,
    of_label,
    stride,
    columns,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row and block of columns. ``into`` may be ``rows``."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    z = tl.load(rows + row * stride + column, mask=inside, other=float("-inf")).to(tl.float32)
    found = tl.exp(z - tl.load(top + row)) * tl.load(of_softmax + row)
    found -= tl.where(column == tl.load(ids + row), tl.load(of_label + row), 0.0)
    tl.store(into + row * stride + column, found.to(into.dtype.element_ty), mask=inside)


def statistics(
    rows: Tensor, ids: Tensor, entropy: bool, keep: bool
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """As in the reference. ``rows``: fp32 or 16 bits, each row contiguous."""
    top, total, normalizer, disorder, target = (
        torch.zeros(len(rows), dtype=torch.float32, device=rows.device) for _ in range(5)
    )
    statistics_kernel[(len(rows),)](
        rows,
        ids,
        top,
        total,
        normalizer,
        disorder,
        target,
        rows.stride(0),
        rows.shape[1],
        ENTROPY=entropy,
        BLOCK=min(BLOCK, triton.next_power_of_2(rows.shape[1])),
        num_warps=WARPS,
    )
    return (rows, top, total) if keep else (), normalizer, disorder, target


def gradient(
    kept: tuple[Tensor, ...],
    ids: Tensor,
    of_softmax: Tensor,
    of_label: Tensor | None,
    overwrite: bool = True,
) -> Tensor:
    """As in the reference. ``overwrite``: the logits' memory becomes the gradient's."""
    rows, top, total = kept
    into = rows if overwrite else torch.empty_like(rows)
    block = min(BLOCK, triton.next_power_of_2(rows.shape[1]))
    gradient_kernel[(len(rows), triton.cdiv(rows.shape[1], block))](
        rows,
        into,
        ids,
        top,
        (of_softmax / total).contiguous(),
        torch.zeros_like(top) if of_label is None else of_label.contiguous(),
        rows.stride(0),
        rows.shape[1],
        BLOCK=block,
        num_warps=WARPS,
    )
    if overwrite:
        torch.autograd.graph.increment_version(rows)  # whoever else kept the logits is told, not misled
    return into
