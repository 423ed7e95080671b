"""Cross entropy of every position, with the two figures of the softmax that losses are made of.

The logits are by far the largest tensor of a step. So they are read in blocks of rows that stay in the cache,
once: torch's softmax is one pass over a row, and all else follows from it. It is kept for the backward pass,
which turns it into the gradient where it lies.

Where the vocabulary is split over tensor-parallel ranks, each rank reads its own part and the ranks exchange
four numbers per row (Shoeybi et al. 2019, arXiv 1909.08053, section 3).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BLOCK = 1 << 20  # elements of logits at a time


def token_statistics(
    logits: Tensor, labels: Tensor, group: dist.ProcessGroup | None = None, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cross entropy, log-normalizer and entropy of each position's softmax, in nats.

    Args:
        logits: ``[batch, seq, vocab]`` fp32, or this rank's equal part of the vocabulary.
        labels: ``[batch, seq]``, valid token ids of the whole vocabulary.
        group: ranks that share the vocabulary in the order of their ranks; None: it is whole.
        entropy: whether the entropy is wanted.

    Returns:
        Each ``[batch, seq]``: ``logsumexp(z) - z[label]``; ``logsumexp(z)``; and ``-sum p log p`` without a
        gradient, or None.
    """
    loss, log_normalizer, found = _TokenStatistics.apply(logits, labels, group, entropy)
    return loss, log_normalizer, found


class _TokenStatistics(torch.autograd.Function):
    """d loss / dz = p - onehot, d log_normalizer / dz = p."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, group: dist.ProcessGroup | None, entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        rows, ids = _rows(logits, labels)
        owned = None
        if group is not None:
            ids = ids - group.rank() * rows.shape[1]
            owned = (ids >= 0) & (ids < rows.shape[1])
            ids = ids.clamp(0, rows.shape[1] - 1)
        keep = ctx.needs_input_grad[0]
        softmax, own, disorder = _softmax(rows, entropy, keep)
        target = rows.gather(1, ids[:, None]).squeeze(1)
        normalizer = own
        if group is not None and owned is not None:
            normalizer, disorder, target = _over_ranks(own, disorder, target * owned, group)
        if keep:
            share = (own - normalizer).exp()  # of the whole softmax, that lies on this rank
            ctx.save_for_backward(softmax, share, ids, owned)
            ctx.shape = labels.shape
        ctx.set_materialize_grads(False)
        shaped = [_positions(x, labels) for x in (normalizer - target, normalizer)]
        if not entropy:
            return shaped[0], shaped[1], None
        found = _positions(disorder, labels)
        ctx.mark_non_differentiable(found)
        return shaped[0], shaped[1], found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        softmax, share, ids, owned = ctx.saved_tensors
        of_loss, of_normalizer = (None if grad is None else grad.t().reshape(-1, 1) for grad in grads[:2])
        given = [grad for grad in (of_loss, of_normalizer) if grad is not None]
        if not given:
            return None, None, None, None
        # In place: nobody else has it. Torch refuses a second backward pass, as it does without retain_graph.
        result = softmax.mul_(sum(given[1:], given[0]) * share[:, None])
        if of_loss is not None:
            result.scatter_add_(1, ids[:, None], -of_loss if owned is None else -of_loss * owned[:, None])
        batch, length = ctx.shape
        return result.view(length, batch, -1).transpose(0, 1), None, None, None


def _softmax(rows: Tensor, entropy: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of each row (only if kept), its log-normalizer and, if wanted, its entropy.

    The normalizer comes from the largest probability ``p`` and logit ``z``: ``z - log p``. ``p`` is at least
    one over the row's length, so nothing is lost.
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
            lower = (part - top[:, None]).clamp_(
                min=-200.0
            )  # p is 0 there, and 0 times minus infinity is not
            torch.add(lower.mul_(p).sum(1), largest, out=disorder[start : start + block]).neg_()
    return softmax, normalizer, disorder


def _over_ranks(
    own: Tensor, disorder: Tensor, target: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-normalizer, entropy and the label's logit over the whole vocabulary.

    ``own`` and ``disorder`` are the first two of this rank's part alone; ``target`` is 0 on ranks that do not
    have the label.
    """
    top = own.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX, group)
    lower = (own - top).clamp_(min=-200.0)
    share = lower.exp()
    sums = torch.stack([share, share * (disorder - lower), target])
    dist.all_reduce(sums, group=group)
    log_total = sums[0].log()
    return log_total + top, sums[1] / sums[0] + log_total, sums[2]


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``[batch, seq, vocab]`` and ``[batch, seq]`` as rows, in the order they lie in memory."""
    return logits.transpose(0, 1).reshape(-1, logits.shape[-1]), labels.t().reshape(-1)


def _positions(values: Tensor, labels: Tensor) -> Tensor:
    """One value per row as ``[batch, seq]``."""
    return values.view(labels.shape[1], labels.shape[0]).t()
