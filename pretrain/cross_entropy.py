"""Cross entropy on one rank, sparing with memory. Tensor-parallel ranks use Megatron's own."""

from typing import Any

import torch
from torch import Tensor


class TokenLoss(torch.autograd.Function):
    """Cross entropy per position that keeps the logits and a number per row instead of a log-softmax.

    It works through blocks of rows that stay in the cache: the logits are by far the largest tensor of a
    step.
    """

    BLOCK = 1 << 20  # elements of logits at a time

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        rows, flat_labels = _rows(logits, labels)
        normalizer = torch.empty(rows.shape[0], dtype=rows.dtype, device=rows.device)
        block = max(1, TokenLoss.BLOCK // rows.shape[1])
        scratch = torch.empty_like(rows[:block])
        for part, out in zip(rows.split(block), normalizer.split(block)):
            top = part.amax(1, keepdim=True)
            shifted = torch.sub(part, top, out=scratch[: len(part)]).exp_()
            torch.add(shifted.sum(1).log_(), top.squeeze(1), out=out)
        ctx.save_for_backward(logits, labels, normalizer)
        loss = normalizer - rows.gather(1, flat_labels[:, None]).squeeze(1)
        return loss.view(labels.shape[1], labels.shape[0]).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, labels, normalizer = ctx.saved_tensors
        rows, flat_labels = _rows(logits, labels)
        grad = grads[0].t().reshape(-1, 1)
        result = torch.empty_like(rows)
        block = max(1, TokenLoss.BLOCK // rows.shape[1])
        pieces = (rows, normalizer[:, None], grad, result)
        for part, norm, weight, out in zip(*(piece.split(block) for piece in pieces)):
            torch.sub(part, norm, out=out).exp_().mul_(weight)
        result.scatter_add_(1, flat_labels[:, None], -grad)
        batch, length = labels.shape
        return result.view(length, batch, -1).transpose(0, 1), None


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``[batch, seq, vocab]`` and ``[batch, seq]`` as rows, in the order they lie in memory."""
    return logits.transpose(0, 1).reshape(-1, logits.shape[-1]), labels.t().reshape(-1)
