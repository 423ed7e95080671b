"""Quality tiers: which part of a source each document belongs to, by its score."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.tokens.encode import Encoded
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import write_atomic


def assign_tiers(scores: Path, encoded: Encoded, thresholds: Sequence[float], output: Path) -> None:
    """Write the tier of every document of a source, ``[documents]`` int8 in an ``.npy`` file.

    A document is in tier ``k`` if ``k`` thresholds are at or below its quality.

    Args:
        scores: Parquet with ``id`` and ``quality``, in the order of the source's documents.
        encoded: the source's documents.
        thresholds: rising.
        output: the file to write.

    Raises:
        DamagedError: the scores are not readable.
        StemmaError: they are not those of these documents, or one is missing.
    """
    tiers = np.empty(len(encoded), np.int8)
    bounds = np.asarray(thresholds, np.float32)  # as the scores are: 0.7 is not below 0.7
    row = 0
    rows = _read(scores)
    for ids in encoded.ids():
        for identifier in ids:
            found, quality = next(rows, ("(the end)", 0.0))
            if found != identifier:
                raise StemmaError(
                    f"{scores}: row {row} is {found}, but the document there is {identifier}; these are "
                    "scores of other documents. Run the quality stage on this corpus"
                )
            if not 0 <= quality <= 1:
                raise StemmaError(f"{scores}: document {found} has quality {quality}, expected 0 to 1")
            tiers[row] = np.searchsorted(bounds, np.float32(quality), side="right")
            row += 1
    if (more := next(rows, None)) is not None:
        raise StemmaError(f"{scores}: row {row} is {more[0]}, but the source has {row} documents")
    buffer = io.BytesIO()
    np.save(buffer, tiers)
    write_atomic(output, buffer.getvalue())


def _read(path: Path) -> Iterator[tuple[str, float]]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=["id", "quality"]):
            qualities = batch.column("quality").to_numpy(zero_copy_only=False)
            yield from zip(batch.column("id").to_pylist(), np.nan_to_num(qualities, nan=-1.0).tolist())
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error
