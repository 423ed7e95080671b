"""Softmax statistics of rows in torch: what a CPU trains with, and the reference of the Triton kernels.

Rows are read in blocks that stay in the cache, once: torch's softmax is one pass over a row, and all else
follows from it. It is kept for the backward pass, which turns it into the gradient where it lies.
"""

import torch
from torch import Tensor

BLOCK = 1 << 20  # elements of logits at a time


def statistics(
    rows: Tensor, ids: Tensor, entropy: bool, keep: bool
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """Log-normalizer, entropy and the label's logit of each row.

    The normalizer comes from the largest probability ``p`` and logit ``z``: ``z - log p``. ``p`` is at least
    one over the row's length, so nothing is lost.

    Args:
        rows: ``[rows, columns]`` fp32 logits.
        ids: ``[rows]`` int64, the label's column; one that is not here counts as not among these columns.
        entropy: whether the entropy is wanted.
        keep: whether ``gradient`` will be asked for.

    Returns:
        What ``gradient`` needs; then, ``[rows]`` fp32 each, in nats: ``logsumexp(z)``; ``-sum p log p`` (0 if
        not wanted); the label's logit (0 if it is not here).
    """
    block = max(1, BLOCK // rows.shape[1])
    softmax = torch.empty_like(rows if keep else rows[:block])
    normalizer, disorder = (torch.zeros_like(rows[:, 0]) for _ in "ab")
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        p = softmax[start : start + block] if keep else softmax[: len(part)]
        torch.softmax(part, 1, out=p)
        top, largest = part.amax(1), p.amax(1).log_()
        torch.sub(top, largest, out=normalizer[start : start + block])
        if entropy:
            # p is 0 down there, and 0 times minus infinity is not
            lower = (part - top[:, None]).clamp_(min=-200.0)
            torch.add(lower.mul_(p).sum(1), largest, out=disorder[start : start + block]).neg_()
    here, column = _found(ids, rows.shape[1])
    target = rows.gather(1, column).squeeze(1).where(here, 0.0)
    return (softmax,) if keep else (), normalizer, disorder, target


def gradient(kept: tuple[Tensor, ...], ids: Tensor, of_softmax: Tensor, of_label: Tensor | None) -> Tensor:
    """``of_softmax * softmax - of_label * onehot``. It may take the memory of what was kept: ask once.

    Args:
        kept: what ``statistics`` returned.
        ids: ``[rows]``, as there.
        of_softmax: ``[rows]``.
        of_label: ``[rows]``; None: 0.

    Returns:
        ``[rows, columns]``.
    """
    (softmax,) = kept
    result = softmax.mul_(of_softmax[:, None])
    if of_label is not None:
        here, column = _found(ids, softmax.shape[1])
        result.scatter_add_(1, column, -of_label.where(here, 0.0)[:, None])
    return result


def _found(ids: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Whether each label is among the columns, and a column to look at, ``[rows, 1]``."""
    return (ids >= 0) & (ids < columns), ids.clamp(0, columns - 1)[:, None]
