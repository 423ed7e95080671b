"""Cross entropy of every position, with the two figures of the softmax that losses are made of.

The logits are by far the largest tensor of a step. So they are read in blocks of rows that stay in the cache,
and what is kept for the backward pass is the logits and one number per row, no log-softmax.

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
        top, total, weighted = _sums(rows, entropy)
        target = rows.gather(1, ids[:, None]).squeeze(1)
        if group is not None and owned is not None:
            top, total, weighted, target = _over_ranks(top, total, weighted, target * owned, group)
        log_total = total.log()
        normalizer = log_total + top
        ctx.save_for_backward(logits, labels, normalizer, ids, owned)
        ctx.set_materialize_grads(False)
        shaped = [_positions(x, labels) for x in (normalizer - target, normalizer)]
        if not entropy:
            return shaped[0], shaped[1], None
        found = _positions(log_total - weighted / total, labels)
        ctx.mark_non_differentiable(found)
        return shaped[0], shaped[1], found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        logits, labels, normalizer, ids, owned = ctx.saved_tensors
        of_loss, of_normalizer = (None if grad is None else grad.t().reshape(-1, 1) for grad in grads[:2])
        given = [grad for grad in (of_loss, of_normalizer) if grad is not None]
        if not given:
            return None, None, None, None
        rows, _ = _rows(logits, labels)
        result = torch.empty_like(rows)
        pieces = (rows, normalizer[:, None], sum(given[1:], given[0]), result)
        for part, norm, weight, out in zip(*(piece.split(_block(rows)) for piece in pieces)):
            torch.sub(part, norm, out=out).exp_().mul_(weight)
        if of_loss is not None:
            result.scatter_add_(1, ids[:, None], -of_loss if owned is None else -of_loss * owned[:, None])
        batch, length = labels.shape
        return result.view(length, batch, -1).transpose(0, 1), None, None, None


def _sums(rows: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Per row: the largest logit ``m``, ``sum exp(z - m)`` and, if wanted, ``sum exp(z - m) (z - m)``."""
    top, total, weighted = (torch.zeros(rows.shape[0], dtype=rows.dtype, device=rows.device) for _ in "abc")
    scratch = torch.empty_like(rows[: _block(rows)])
    exponents = torch.empty_like(scratch) if entropy else scratch
    pieces = (rows, top, total, weighted)
    for part, largest, out, product in zip(*(piece.split(_block(rows)) for piece in pieces)):
        torch.amax(part, 1, out=largest)
        shifted = torch.sub(part, largest[:, None], out=scratch[: len(part)])
        powers = torch.exp(shifted, out=exponents[: len(part)])
        torch.sum(powers, 1, out=out)
        if entropy:
            shifted.clamp_(min=-200.0)  # exp is 0 there, and 0 times minus infinity is not
            torch.sum(powers.mul_(shifted), 1, out=product)
    return top, total, weighted


def _over_ranks(
    top: Tensor, total: Tensor, weighted: Tensor, target: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same sums over the whole vocabulary. ``target`` is 0 on ranks that do not have the label."""
    own, top = top, top.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX, group)
    lower = (own - top).clamp_(min=-200.0)
    scale = lower.exp()
    sums = torch.stack([total * scale, (weighted + total * lower) * scale, target])
    dist.all_reduce(sums, group=group)
    return top, sums[0], sums[1], sums[2]


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``[batch, seq, vocab]`` and ``[batch, seq]`` as rows, in the order they lie in memory."""
    return logits.transpose(0, 1).reshape(-1, logits.shape[-1]), labels.t().reshape(-1)


def _positions(values: Tensor, labels: Tensor) -> Tensor:
    """One value per row as ``[batch, seq]``."""
    return values.view(labels.shape[1], labels.shape[0]).t()


def _block(rows: Tensor) -> int:
    """Rows of one block."""
    return max(1, BLOCK // rows.shape[1])
