"""Batched sampling with a key/value cache, token by token, from a transformers model.

``generate()`` of transformers spends most of its time, for a small model, on bookkeeping, and cannot let
rows leave and come back. Here a *row* is one growing sequence with its own cache and its own random
numbers. A round puts rows side by side, lets each write until it stops, and takes it out then; the caller
may append to a row and run it again. What a row writes depends on its own tokens and random numbers only,
not on the rows beside it (up to the rounding of matrix products).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from posttrain.config import SamplingConfig

COMPACT_BELOW = 0.8
"""Finished rows leave the batch once fewer than this share still write: leaving copies the cache."""


@dataclass
class Past:
    """A row's cache: per layer ``[heads, seq, dim]`` keys and values, and which places hold tokens."""

    keys: list[Tensor]
    values: list[Tensor]
    real: Tensor


@dataclass
class Row:
    """One growing sequence.

    Attributes:
        seed: of its random numbers.
        pending: ids that the model has not read yet; never empty between rounds.
        position: tokens it has read.
        draws: random numbers used so far: one per sampled token.
        past: its cache.
    """

    seed: int
    pending: list[int]
    position: int = 0
    draws: int = 0
    past: Past | None = None


@dataclass
class Turn:
    """What a row wrote in one round.

    Attributes:
        ids: the sampled ids, the stop token included.
        logprobs: log-probability of each under the model itself (temperature 1, all tokens).
        stopped: it ended with the stop token, not for lack of room.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    rows: Sequence[Row],
    room: Sequence[int],
    stop: int,
    sampling: SamplingConfig,
    keep_past: bool = True,
) -> list[Turn]:
    """Let every row write one turn.

    Args:
        model: a causal language model in evaluation mode.
        rows: what to continue, all of them new or none; updated in place, so that
            ``row.pending.extend(ids)`` and another call go on.
        room: most tokens each row may write, at least 1.
        stop: the id that ends a turn.
        sampling: how tokens are drawn.
        keep_past: False if no row will be continued.

    Returns:
        one turn per row.
    """
    turns = [Turn() for _ in rows]
    longest = max(room)
    uniforms = torch.stack([_uniforms(row, longest) for row in rows])
    active = list(range(len(rows)))  # the row behind each line of the batch
    writing = list(range(len(rows)))  # lines that still write
    cache, real, logits = _read(model, rows)
    width = real.shape[1]  # places of the cache in use; `real` also covers those to come
    real = torch.cat([real, torch.ones(len(rows), longest, dtype=torch.bool)], dim=1)
    for count in range(longest):
        chosen, logprobs = draw(logits, uniforms[active, count], sampling)
        ids, logs, going = chosen.tolist(), logprobs.tolist(), []
        for line in writing:
            row = active[line]
            turn = turns[row]
            turn.ids.append(ids[line])
            turn.logprobs.append(logs[line])
            turn.stopped = ids[line] == stop
            if not turn.stopped and len(turn.ids) < room[row]:
                going.append(line)
            else:
                _leave(rows[row], turn, _slice(cache, real, line, width) if keep_past else None)
        writing = going
        if not writing:
            break
        if len(writing) < COMPACT_BELOW * len(active):
            kept = torch.tensor(writing)
            cache.batch_select_indices(kept)
            real, chosen = real[kept], chosen[kept]
            active = [active[line] for line in writing]
            writing = list(range(len(active)))
        positions = torch.tensor([[rows[row].position + count] for row in active])
        width += 1
        logits = _forward(model, chosen[:, None], positions, real[:, :width], cache)
    return turns


def draw(logits: Tensor, uniforms: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """One token per line by inverting the distribution function at a uniform number.

    Args:
        logits: ``[batch, vocab]``.
        uniforms: ``[batch]`` float64 in [0, 1).
        sampling: temperature and nucleus.

    Returns:
        ids ``[batch]`` and their log-probabilities under ``softmax(logits)``, whatever the sampling.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    if sampling.temperature == 0:
        chosen = logprobs.argmax(dim=-1)
    else:
        tempered = (
            logprobs
            if sampling.temperature == 1
            else torch.log_softmax(logprobs / sampling.temperature, dim=-1)
        )
        mass = nucleus(tempered.exp(), sampling.top_p).double().cumsum(dim=-1)
        chosen = torch.searchsorted(mass, uniforms[:, None] * mass[:, -1:], right=True).squeeze(-1)
        chosen.clamp_(max=logits.shape[-1] - 1)
    return chosen, logprobs.gather(-1, chosen[:, None]).squeeze(-1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the fewest likeliest tokens that hold ``top_p`` of the mass; ``[batch, vocab]``."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(probabilities).scatter_(-1, order, ordered * (before < top_p))


def _uniforms(row: Row, count: int) -> Tensor:
    """The row's next ``count`` random numbers; the stream does not depend on how it is cut into turns."""
    stream = np.random.Generator(np.random.Philox(key=row.seed)).random(row.draws + count)
    return torch.from_numpy(stream[row.draws :])


def _read(model: PreTrainedModel, rows: Sequence[Row]) -> tuple[DynamicCache, Tensor, Tensor]:
    """Read all pending ids, aligned at their ends: cache, real places ``[rows, width]`` and logits ``[rows,
    vocab]``.

    New rows with the same prompt read it once.
    """
    cache = DynamicCache(config=model.config)
    fresh = [row.past is None for row in rows]
    if all(fresh):
        prompts = [tuple(row.pending) for row in rows]
        distinct = {prompt: line for line, prompt in enumerate(dict.fromkeys(prompts))}
        blocks, lines, real = list(distinct), [distinct[prompt] for prompt in prompts], None
    elif not any(fresh):
        blocks, lines = [tuple(row.pending) for row in rows], list(range(len(rows)))
        real = _join([row.past for row in rows if row.past], cache)
    else:
        raise ValueError("new rows and rows to continue cannot share a round")
    ids, block, offsets = _align(blocks)
    starts = torch.tensor([0] * len(blocks) if real is None else [row.position for row in rows])
    positions = (starts[:, None] + torch.arange(ids.shape[1])[None] - offsets[:, None]).clamp_(min=0)
    real = block if real is None else torch.cat([real, block], dim=1)
    logits = _forward(model, ids, positions, real, cache)
    for row in rows:
        row.position += len(row.pending)
    if lines == list(range(len(blocks))):
        return cache, real, logits
    spread = torch.tensor(lines)
    cache.batch_select_indices(spread)
    return cache, real[spread], logits[spread]


def _align(blocks: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad on the left: ids ``[rows, longest]``, real places, and each row's number of padded places."""
    longest = max(map(len, blocks))
    offsets = torch.tensor([longest - len(block) for block in blocks])
    ids = torch.tensor([[0] * (longest - len(block)) + list(block) for block in blocks])
    return ids, torch.arange(longest)[None] >= offsets[:, None], offsets


def _forward(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, real: Tensor, cache: DynamicCache
) -> Tensor:
    output = model(
        input_ids=ids,
        attention_mask=real.long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def _leave(row: Row, turn: Turn, past: Past | None) -> None:
    """Note what a row has read and written; its last token is still to be read."""
    row.past = past
    row.pending = [turn.ids[-1]]
    row.position += len(turn.ids) - 1
    row.draws += len(turn.ids)


def _slice(cache: DynamicCache, real: Tensor, line: int, width: int) -> Past:
    """A copy of one line of the cache: a view would keep all of it in memory."""
    return Past(
        [layer.keys[line].clone() for layer in cache.layers],
        [layer.values[line].clone() for layer in cache.layers],
        real[line, :width].clone(),
    )


def _join(pasts: Sequence[Past], cache: DynamicCache) -> Tensor:
    """Put rows' caches side by side into ``cache``, aligned at their ends; returns the real places."""
    width = max(len(past.real) for past in pasts)

    def stack(tensors: list[Tensor]) -> Tensor:  # each [heads, seq, dim]
        return torch.stack([F.pad(tensor, (0, 0, width - tensor.shape[1], 0)) for tensor in tensors])

    for layer in range(len(pasts[0].keys)):
        cache.update(
            stack([past.keys[layer] for past in pasts]), stack([past.values[layer] for past in pasts]), layer
        )
    return torch.stack([F.pad(past.real, (width - len(past.real), 0)) for past in pasts])
