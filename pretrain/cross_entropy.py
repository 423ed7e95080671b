"""Cross entropy of every position, with the two figures of the softmax that losses are made of.

The logits are by far the largest tensor of a step, so what passes over them is in ``kernels.cross_entropy``:
in torch for CPUs, in Triton for CUDA. Where the vocabulary is split over tensor-parallel ranks, each rank
reads its own part and the ranks exchange four numbers per row (Shoeybi et al. 2019, arXiv 1909.08053, section
3).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.cross_entropy import gradient, statistics


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
        if group is not None:
            ids = ids - group.rank() * rows.shape[1]  # those of other ranks are none of its columns
        keep = ctx.needs_input_grad[0]
        kept, own, disorder, target = statistics(rows, ids, entropy, keep)
        normalizer = own
        if group is not None:
            normalizer, disorder, target = _over_ranks(own, disorder, target, group)
        if keep:
            share = (own - normalizer).exp()  # of the whole softmax, that lies on this rank
            ctx.save_for_backward(share, ids, *kept)
            ctx.shape, ctx.leaf = labels.shape, logits.grad_fn is None
        ctx.set_materialize_grads(False)
        shaped = [_positions(x, labels) for x in (normalizer - target, normalizer)]
        if not entropy:
            return shaped[0], shaped[1], None
        found = _positions(disorder, labels)
        ctx.mark_non_differentiable(found)
        return shaped[0], shaped[1], found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        share, ids, *kept = ctx.saved_tensors
        of_loss, of_normalizer = (None if grad is None else grad.t().reshape(-1) for grad in grads[:2])
        given = [grad for grad in (of_loss, of_normalizer) if grad is not None]
        if not given:
            return None, None, None, None
        # In place where it can be: torch refuses a second backward pass, as it does without retain_graph.
        result = gradient(tuple(kept), ids, sum(given[1:], given[0]) * share, of_loss, keep=ctx.leaf)
        batch, length = ctx.shape
        return result.view(length, batch, -1).transpose(0, 1), None, None, None


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
    return logits.detach().transpose(0, 1).reshape(-1, logits.shape[-1]), labels.t().reshape(-1)


def _positions(values: Tensor, labels: Tensor) -> Tensor:
    """One value per row as ``[batch, seq]``."""
    return values.view(labels.shape[1], labels.shape[0]).t()
