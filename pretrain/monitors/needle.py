"""A needle in a haystack: does the model use what stands far back in its context?

A sentence with a number nobody could guess is hidden in held-out text, and the text ends with the same
sentence once more. A model that looks back finds the number likely the second time. Two figures per depth:

- ``gain``: nats per digit by which the number is likelier the second time than the first;
- ``found``: share of needles of which every digit got more than half of the probability. That implies that
  greedy decoding says the number; the reverse is not implied, so it is a lower bound of the usual score.

After Kamradt's "needle in a haystack" pressure test (2023), with the passkeys of Mohtashami and Jaggi 2023
(arXiv 2305.16300), as log-probabilities instead of generated text: one forward pass for each needle.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from data_pipeline.tokens.shards import TokenShard, open_shards
from pretrain.engine import Engine
from pretrain.launch import Job
from stemma.core.errors import StemmaError

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
DIGITS = 5
NOUNS = (
    "garden",
    "library",
    "station",
    "harbour",
    "kitchen",
    "tower",
    "museum",
    "bridge",
    "market",
    "school",
)


@dataclass(frozen=True)
class Needle:
    """One test.

    Attributes:
        tokens: int64 ``[length]``: text with the sentence in it, and the sentence again at its end.
        depth: where in the text the sentence stands, 0 at its beginning, 1 at its end.
        first, last: places of the digits' tokens in ``tokens``, at the first and at the second sentence.
    """

    tokens: np.ndarray
    depth: float
    first: range
    last: range


class NeedleTest:
    """Needles for sequences of any length, from the held-out text of a job.

    Args:
        job: its tokenizer, and where held-out text is.
        engine: holds the model.

    Raises:
        StemmaError: there is no held-out text.
    """

    def __init__(self, job: Job, engine: Engine) -> None:
        self.engine = engine
        self.needles = job.training.monitor.needles
        self.micro_tokens = job.training.micro_batch_size * job.training.validation_length
        self.tokenizer = Tokenizer.from_file(str(Path(job.tokenizer) / "hf" / "tokenizer.json"))
        shards = open_shards(map(Path, job.validation), "valid")
        largest = max(shards.values(), key=len, default=None)
        if largest is None or not len(largest):
            raise StemmaError(
                "monitor.needles: there is no held-out text to hide needles in; every `valid` shard is empty"
            )
        self.haystack = largest

    def measure(self, step: int, length: int) -> dict[str, Any] | None:
        """The record of all depths at one sequence length; None if no sentence fits into it twice.

        Called by every rank. Each data-parallel rank reads all needles: they are few.
        """
        made = [
            needle
            for depth in DEPTHS
            for index in range(self.needles)
            if (needle := make_needle(self.tokenizer, self.haystack, length, depth, index)) is not None
        ]
        if not made:
            return None
        scored = []
        rows = max(1, self.micro_tokens // length)
        for start in range(0, len(made), rows):
            part = made[start : start + rows]
            tokens = torch.from_numpy(np.stack([needle.tokens for needle in part])).to(self.engine.device)
            logprobs = self.engine.token_logprobs_no_grad(tokens).double().cpu().numpy()
            scored += [score(needle, row) for needle, row in zip(part, logprobs)]
        by_depth = {
            f"{depth:g}": _average([found for needle, found in zip(made, scored) if needle.depth == depth])
            for depth in sorted({needle.depth for needle in made})  # a long sentence may fit at some only
        }
        return {
            "monitor": "needle",
            "step": step,
            "sequence_length": length,
            "needles": len(made),
            **_average(scored),
            "depths": by_depth,
        }


def make_needle(
    tokenizer: Tokenizer, haystack: TokenShard, length: int, depth: float, index: int
) -> Needle | None:
    """Test number ``index`` of a depth: the same for every model with this tokenizer and text.

    Args:
        tokenizer: of the model.
        haystack: held-out text; read from its beginning again where it is too short.
        length: tokens of the whole.
        depth: 0 to 1.
        index: another one is another sentence in another part of the text.

    Returns:
        None if the sentence does not fit twice.
    """
    chance = random.Random(f"{length} {depth} {index}")
    noun = chance.choice(NOUNS)
    number = "".join(chance.choice("0123456789") for _ in range(DIGITS))
    said = tokenizer.encode(f"\n\nThe pass code of the {noun} is", add_special_tokens=False).ids
    whole = tokenizer.encode(f"\n\nThe pass code of the {noun} is {number}", add_special_tokens=False).ids
    common = next((at for at, (a, b) in enumerate(zip(said, whole)) if a != b), len(said))
    end = tokenizer.encode(".\n\n", add_special_tokens=False).ids
    room = length - 2 * len(whole) - len(end)
    if room < 0:
        return None
    filler = _read(haystack, chance.randrange(len(haystack)), room)
    at = round(depth * room)
    tokens = np.concatenate([filler[:at], whole, end, filler[at:], whole]).astype(np.int64)
    digits = len(whole) - common
    return Needle(tokens, depth, range(at + common, at + common + digits), range(length - digits, length))


def score(needle: Needle, logprobs: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Judge one needle.

    Args:
        needle: the test.
        logprobs: ``[length]``; position ``i`` holds that of token ``i + 1``, as the engine gives them.
    """
    first = np.array([logprobs[at - 1] for at in needle.first])
    last = np.array([logprobs[at - 1] for at in needle.last])
    return {
        "gain": float(last.mean() - first.mean()),
        "found": float(bool((last > math.log(0.5)).all())),
    }


def _read(shard: TokenShard, start: int, count: int) -> np.ndarray:
    parts = []
    while count > 0:
        taken = min(count, len(shard) - start)
        parts.append(shard.read(start, taken))
        start, count = 0, count - taken
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _average(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(one[name] for one in scores) / len(scores), 4) for name in scores[0]}
