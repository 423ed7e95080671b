"""Causal attention in torch: the implementation the CPU trains with and the oracle of the Triton kernel.

Multi-head latent attention has query/key heads of ``d_qk = nope + rope`` dimensions and value heads of
``d_v`` dimensions. Torch's fused CPU kernel wants them equal, and without it the scores are materialised;
padding the values with zero columns, which come out as zero columns and are cut off, keeps the fused kernel
and its memory use.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, documents: Tensor | None = None
) -> Tensor:
    """Softmax attention in which a position sees itself and what is before it.

    Args:
        query: ``[batch, heads, seq, d_qk]``.
        key: ``[batch, heads, seq, d_qk]``.
        value: ``[batch, heads, seq, d_v]`` with ``d_v <= d_qk``.
        scale: factor on the scores; ``d_qk ** -0.5`` if not given.
        documents: ``[batch, seq]``, the number of each position's document. If given, a position sees its own
            document only.

    Returns:
        ``[batch, heads, seq, d_v]``.
    """
    d_qk, d_v = query.shape[-1], value.shape[-1]
    scale = d_qk**-0.5 if scale is None else scale
    if d_v < d_qk:
        value = F.pad(value, (0, d_qk - d_v))
    mask = None if documents is None else document_mask(documents)
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return out[..., :d_v]


def document_mask(documents: Tensor) -> Tensor:
    """``[batch, 1, seq, seq]``, true where the row's position may see the column's."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return (documents[:, :, None] == documents[:, None, :])[:, None] & causal


def oracle_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, documents: Tensor | None = None
) -> Tensor:
    """The definition of ``causal_attention``, term by term in float64, for tests."""
    query, key, value = query.double(), key.double(), value.double()
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    length = query.shape[2]
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scale
    if documents is None:
        documents = torch.zeros(query.shape[0], length, dtype=torch.long, device=query.device)
    scores = scores.masked_fill(~document_mask(documents), -math.inf)
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)
