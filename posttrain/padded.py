"""Batches of sequences of different lengths: one sequence per row, padded at its end.

Padding costs nothing but time: causal attention never looks ahead, and padded positions carry no loss.
Sequences of like length share a micro batch, so that little is wasted; which ones share does not change
what is learned, because the loss is a sum over the whole batch divided by the batch's supervised tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pretrain.batch import MicroBatch, Sample, StepBatch, batch_digest, micro_batches


def padded_batch(
    samples: Sequence[Sample], micro_batch_size: int, data_rank: int, data_size: int
) -> StepBatch:
    """Make a step's batch from all its rows, which every rank holds.

    Counts and hash are those of the rows without padding, in the given order.

    Args:
        samples: the global batch, at least one row, in the same order on every rank.
        micro_batch_size: rows per forward pass.
        data_rank: this process's place among the data-parallel ranks.
        data_size: number of data-parallel ranks; where it does not divide the rows, some ranks get a row
            without loss besides.
    """
    counts: dict[str, tuple[int, int, int]] = {}
    for sample in samples:
        rows, tokens, supervised = counts.get(sample.source, (0, 0, 0))
        carried = int(np.count_nonzero(sample.loss_mask))
        counts[sample.source] = (rows + 1, tokens + len(sample.tokens), supervised + carried)
    by_length = sorted(samples, key=lambda sample: -len(sample.tokens))
    by_length += [without_loss(by_length[-1])] * (-len(samples) % data_size)
    mine = by_length[data_rank::data_size]
    return StepBatch(
        micro=_micro(mine, micro_batch_size),
        counts=counts,
        sha256=batch_digest([sample.digest() for sample in samples]),
        denominator=float(sum(supervised for _, _, supervised in counts.values())),
        pedigree=[{"source": sample.source, **sample.pedigree} for sample in mine],
    )


def without_loss(sample: Sample) -> Sample:
    """The same row, of which nothing is learned."""
    return replace(sample, loss_mask=np.zeros_like(sample.loss_mask))


def _micro(samples: Sequence[Sample], size: int) -> list[MicroBatch]:
    """Micro batches of ``size`` rows in order, each as wide as its longest row."""
    found = []
    for start in range(0, len(samples), size):
        rows = samples[start : start + size]
        width = max(len(row.tokens) for row in rows)
        found += micro_batches([_pad(row, width) for row in rows], size)
    return found


def _pad(sample: Sample, width: int) -> Sample:
    def pad(row: np.ndarray) -> np.ndarray:
        return np.pad(row, (0, width - len(row)))

    return replace(
        sample,
        tokens=pad(sample.tokens),
        labels=pad(sample.labels),
        loss_mask=pad(sample.loss_mask),
        extra={name: pad(row) for name, row in sample.extra.items()},
    )
