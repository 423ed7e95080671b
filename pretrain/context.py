"""Context parallelism: ranks that hold the same layers share the positions of every row.

Megatron's zigzag layout: a row is cut into ``2 * CP`` chunks, and rank ``r`` holds chunks ``r`` and
``2 * CP - 1 - r``, an early one and a late one, so that under the causal mask all ranks have the same work
(Megatron's rotary embedding cuts its angles the same way). Keys and values of all ranks are gathered where
attention needs them, and their gradients summed back to the ranks they came from (Llama 3, arXiv 2407.21783,
section 3.3.2); the backward pass gathers them once more, so that no rank holds more than its share between
the two. Everything else in a layer, and the loss, looks at one position at a time.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.reference import causal_attention
from pretrain.batch import MicroBatch


def held(length: int, rank: int, size: int) -> Tensor:
    """The positions of a row that a rank holds, ``[length / size]``, in the order it holds them."""
    chunks = torch.arange(length).view(2 * size, -1)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]])


def padded(micro: MicroBatch, multiple: int) -> MicroBatch:
    """The micro batch with its rows lengthened to a multiple of ``multiple`` positions.

    The new positions come last, where no position before them looks, and carry no loss. They belong to the
    document that the row ends with.
    """
    length = micro.tokens.shape[1]
    more = -length % multiple
    if not more:
        return micro
    longer = micro.each(lambda x: F.pad(x, (0, more)))
    if micro.cu_seqlens is not None:
        row = torch.div(micro.cu_seqlens, length, rounding_mode="floor")
        longer.cu_seqlens = micro.cu_seqlens + row * more
    return longer


def own_part(micro: MicroBatch, rank: int, size: int) -> MicroBatch:
    """The positions of a micro batch that a rank holds. ``cu_seqlens`` goes on counting the whole rows."""
    if size == 1:
        return micro
    mine = held(micro.tokens.shape[1], rank, size).to(micro.tokens.device)
    return micro.each(lambda x: x[:, mine])


def whole_rows(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Put the parts of all ranks together: ``[seq / CP, ...]`` on each becomes ``[seq, ...]`` on all.

    Differentiable: a position's gradient is the sum over ranks, on the rank that holds it.
    """
    return part if group.size() == 1 else _WholeRows.apply(part, group)


class _WholeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        by_rank = part.new_empty((group.size(), 2, part.shape[0] // 2, *part.shape[1:]))
        dist.all_gather_into_tensor(by_rank.flatten(0, 2), part.contiguous(), group=group)
        return torch.cat([by_rank[:, 0], by_rank[:, 1].flip(0)]).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        size = ctx.group.size()
        early, late = grads[0].unflatten(0, (2 * size, -1)).split(size)
        by_rank = torch.stack([early, late.flip(0)], dim=1).flatten(0, 2)  # [CP * 2 * chunk, ...]
        part = by_rank.new_empty((by_rank.shape[0] // size, *by_rank.shape[1:]))
        dist.reduce_scatter_tensor(part, by_rank, group=ctx.group)
        return part, None


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    cu_seqlens: Tensor | None,
    group: dist.ProcessGroup,
    keep: bool = False,
) -> Tensor:
    """Causal attention of the positions this rank holds to those of all ranks.

    Args:
        query: ``[seq / CP, batch, heads, d_qk]``; so is ``key``.
        value: ``[seq / CP, batch, heads, d_v]``.
        scale: factor on the scores.
        cu_seqlens: where documents begin in the whole rows; see ``causal_attention``.
        group: the ranks that share the rows.
        keep: hold the keys and values of all ranks until the backward pass, which otherwise gathers them once
            more: held by every layer, they would take the memory that sharing rows is to save.

    Returns:
        ``[seq / CP, batch, heads, d_v]``.
    """
    size, rank = group.size(), group.rank()
    d_qk, d_v = key.shape[-1], value.shape[-1]
    if size == 1:
        out = causal_attention(*(x.permute(1, 2, 0, 3) for x in (query, key, value)), scale, cu_seqlens)
        return out.permute(2, 0, 1, 3)
    part = torch.cat([key, value], -1)  # one collective for both

    def gather() -> Tensor:
        return F.pad(whole_rows(part, group), (0, max(0, d_qk - d_v)))  # as the fused kernel wants it

    whole = gather()
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query, whole[..., :d_qk], whole[..., d_qk:]))
    chunk = query.shape[2] // 2
    places = zip(query.split(chunk, 2), (rank, 2 * size - 1 - rank))
    with contextlib.nullcontext() if keep else _made_again(whole, gather):
        out = [causal_attention(x, key, value, scale, cu_seqlens, first=at * chunk) for x, at in places]
    return torch.cat(out, 2).narrow(-1, 0, d_v).permute(2, 0, 1, 3)


@contextlib.contextmanager
def _made_again(whole: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Have autograd keep no view of a tensor: the backward pass makes it anew, once for all of its views."""
    storage = whole.untyped_storage().data_ptr()
    made: list[Tensor] = []
    views = 0

    def pack(x: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...], int]:
        nonlocal views
        if x.untyped_storage().data_ptr() != storage:
            return x
        views += 1
        return x.shape, x.stride(), x.storage_offset()

    def unpack(kept: Tensor | tuple[torch.Size, tuple[int, ...], int]) -> Tensor:
        nonlocal views
        if isinstance(kept, Tensor):
            return kept
        if not made:
            with torch.no_grad():
                made.append(make())
        view = made[0].as_strided(*kept)
        views -= 1
        if not views:
            made.clear()
        return view

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
