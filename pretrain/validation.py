"""Bits per byte of every domain, on held-out documents.

``bits per byte = sum of -log2 p(token) / bytes of those tokens``, so that tokenizers compare. Every
predicted token counts with the bytes it stands for; control tokens (the end of a document, turn marks)
cost bits but stand for no bytes. Windows are cut from the ``valid`` shards at even distances, the same
ones for every stage.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_pipeline.tokens.shards import TokenShard, open_shards
from pretrain.batch import Sample, micro_batches, share
from pretrain.engine import Engine
from pretrain.launch import Job
from stemma.core.errors import StemmaError
from tokenizer.load import token_bytes


class Validator:
    """Holds the windows of every domain; ``measure`` scores the engine's current weights.

    Raises:
        StemmaError: there is no held-out text.
    """

    def __init__(self, job: Job, engine: Engine) -> None:
        self.job, self.engine = job, engine
        self.micro_batch_size = job.training.micro_batch_size
        vocabulary = Tokenizer.from_file(str(Path(job.tokenizer) / "hf" / "tokenizer.json"))
        self.bytes_of = np.array([len(text) for text in token_bytes(vocabulary)])
        shards = open_shards(map(Path, job.validation), "valid")
        length, quota = job.training.validation_length, job.training.validation_tokens
        self.windows = {
            domain: windows(
                {name: shard for name, shard in shards.items() if shard.domain == domain}, length, quota
            )
            for domain in sorted({shard.domain for shard in shards.values()})
        }
        if not any(self.windows.values()):
            raise StemmaError("there is no held-out text to validate on: every `valid` shard is empty")

    @property
    def protocol(self) -> dict[str, Any]:
        """What a figure depends on besides the weights: figures of equal protocols compare."""
        return {
            "tokens": [Path(folder).name for folder in self.job.validation],
            "validation_tokens": self.job.training.validation_tokens,
            "validation_length": self.job.training.validation_length,
            "rope_theta": self.engine.rope_theta,
        }

    def measure(self) -> dict[str, float]:
        """Bits per byte of each domain. Called by every rank; each scores its share."""
        return {domain: self._measure(samples) for domain, samples in self.windows.items() if samples}

    def _measure(self, samples: list[Sample]) -> float:
        ranks = self.engine.data_size
        # Every rank takes part in as many forward passes as the others: spare rows carry no loss.
        spare = Sample("", samples[0].tokens, samples[0].labels, np.zeros_like(samples[0].loss_mask))
        padded = samples + [spare] * (-len(samples) % ranks)
        mine = [padded[row] for row in share(len(padded), self.engine.data_rank, ranks)]
        nats = self.engine.evaluate(micro_batches(mine, self.micro_batch_size))
        size = sum(int(self.bytes_of[sample.labels[sample.loss_mask > 0]].sum()) for sample in samples)
        return nats / math.log(2) / size


def windows(shards: Mapping[str, TokenShard], length: int, quota: int) -> list[Sample]:
    """Cut about ``quota`` predicted positions from a domain's shards, each in proportion to its size.

    Args:
        shards: those of one domain, by source.
        length: positions of a window; the end of a short shard is padded, without loss.
        quota: positions wanted, rounded to whole windows, at least one window of each shard.
    """
    total = sum(len(shard) for shard in shards.values())
    found = []
    for source, shard in sorted(shards.items()):
        positions = len(shard) - 1  # the first token is never predicted
        available = math.ceil(positions / length)
        wanted = max(1, round(quota * len(shard) / total / length))
        count = min(available, wanted)
        for index in range(count):
            start = (index * available // count) * length
            found.append(_window(source, shard, start, length))
    return found


def _window(source: str, shard: TokenShard, start: int, length: int) -> Sample:
    real = min(length, len(shard) - 1 - start)
    ids = shard.read(start, real + 1)
    padded = np.pad(ids, (0, length - real))
    mask = (np.arange(length) < real).astype(np.float32)
    return Sample(source, padded[:-1], padded[1:], mask, {"start": start})
