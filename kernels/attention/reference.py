"""Causal attention in torch: the implementation the CPU trains with and the oracle of the Triton kernel.

Multi-head latent attention has query/key heads of ``d_qk = nope + rope`` dimensions and value heads of
``d_v`` dimensions. Torch's fused CPU kernel wants them equal, and without it the scores are materialised;
padding the values with zero columns, which come out as zero columns and are cut off, keeps the fused kernel
and its memory use.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Softmax attention in which a position sees itself and what is before it.

    Args:
        query: ``[batch, heads, queries, d_qk]``: all positions, or a run of them.
        key: ``[batch, heads, seq, d_qk]``.
        value: ``[batch, heads, seq, d_v]`` with ``d_v <= d_qk``.
        scale: factor on the scores; ``d_qk ** -0.5`` if not given.
        cu_seqlens: ``[documents + 1]`` int32: where documents begin, and the end, with the batch's rows laid
            one after another; every row begins one. If given, a position sees its own document only.
        first: position of the first query in its row.

    Returns:
        ``[batch, heads, queries, d_v]``.

    Raises:
        ValueError: the queries reach beyond the rows, or the documents do not fill them (checked where that
            need not wait for a device).
    """
    d_qk, d_v = query.shape[-1], value.shape[-1]
    length, last = key.shape[2], first + query.shape[2]
    if not 0 <= first <= last <= length:
        raise ValueError(f"queries from {first} to {last} in rows of {length} positions")
    scale = d_qk**-0.5 if scale is None else scale
    dtype = query.dtype
    if dtype == torch.float16 and query.is_cpu:  # few CPUs multiply in fp16; torch takes four times as long
        query, key, value = query.float(), key.float(), value.float()
    key, value = key.narrow(2, 0, last), value.narrow(2, 0, last)  # nobody looks further
    if d_v < d_qk:
        value = F.pad(value, (0, d_qk - d_v))
    flash = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if flash and cu_seqlens is None and first > 0:  # each row one document
        cu_seqlens = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device) * length
    if cu_seqlens is None:
        out = _last_queries(query, key, value, scale)
    elif flash:
        out = _flash(query, key, value, scale, cu_seqlens, length)
    else:
        out = _each_alone(query, key, value, scale, cu_seqlens.tolist(), length)
    return out.narrow(-1, 0, d_v).to(dtype)


def _last_queries(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of the last positions of rows."""
    queries, keys = query.shape[2], key.shape[2]
    if queries == keys:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    seen = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)


def document_starts(documents: Tensor) -> Tensor:
    """``cu_seqlens`` of ``[batch, seq]`` numbers that say which document each position belongs to."""
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = torch.nonzero(first.flatten()).flatten()
    return F.pad(starts, (0, 1), value=documents.numel()).to(torch.int32)


def _each_alone(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bounds: list[int], length: int
) -> Tensor:
    """The fused kernel on one document after another: less work than a masked call, and no mask to keep."""
    batch, last = query.shape[0], key.shape[2]
    first = last - query.shape[2]
    rows: list[list[Tensor]] = [[] for _ in range(batch)]
    if (bounds[0], bounds[-1]) != (0, batch * length):
        raise ValueError(f"documents from {bounds[0]} to {bounds[-1]} in {batch} rows of {length} positions")
    for start, stop in pairwise(bounds):
        row, at = divmod(start, length)
        if not 0 < stop - start <= length - at:
            raise ValueError(
                f"a document from {start} to {stop} does not lie in one row of {length} positions"
            )
        seen, end = max(at, first), min(at + stop - start, last)
        if seen < end:
            part = (slice(row, row + 1), slice(None))
            asked, known = query[(*part, slice(seen - first, end - first))], (*part, slice(at, end))
            rows[row].append(_last_queries(asked, key[known], value[known], scale))
    return torch.cat([torch.cat(row, dim=2) for row in rows])


def _flash(
    query: Tensor, key: Tensor, value: Tensor, scale: float, cu_seqlens: Tensor, length: int
) -> Tensor:
    """Flash attention over documents of different lengths, which never leaves the device.

    It has not run: no machine with CUDA was at hand. A test traces it with fake tensors. Documents that end
    before the first query have keys and no queries, which the kernel provides for.
    """
    from torch.nn.attention.varlen import varlen_attn

    batch, _, queries, _ = query.shape
    last = key.shape[2]
    row, at = cu_seqlens // length, cu_seqlens % length
    bounds_of_queries = row * queries + (at - (last - queries)).clamp(0, queries)
    bounds_of_keys = row * last + at.clamp(max=last)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]  # [batch * seq, heads, d]
    out = varlen_attn(
        *flat,
        bounds_of_queries,
        bounds_of_keys,
        queries,  # no document is longer than its row; the exact maximum would have to be waited for
        last,
        scale=scale,
        window_size=(-1, 0),  # causal, the last query on the last key
    )
    assert isinstance(out, Tensor)
    return out.unflatten(0, (batch, queries)).transpose(1, 2)


def document_mask(documents: Tensor) -> Tensor:
    """``[batch, 1, seq, seq]``, true where the row's position may see the column's."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return (documents[:, :, None] == documents[:, None, :])[:, None] & causal


def oracle_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, documents: Tensor | None = None
) -> Tensor:
    """The definition of ``causal_attention``, term by term in float64, for tests.

    ``documents``: ``[batch, seq]``, the number of each position's document.
    """
    query, key, value = query.double(), key.double(), value.double()
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    length = query.shape[2]
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scale
    if documents is None:
        documents = torch.zeros(query.shape[0], length, dtype=torch.long, device=query.device)
    scores = scores.masked_fill(~document_mask(documents), -math.inf)
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)
