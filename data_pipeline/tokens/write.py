"""One shard from a source's encoded batches: documents in seeded order or packed, index and sidecar beside
them.

A shard is written under temporary names and renamed; a record of its figures is written last. So a killed run
writes again at most the shards its workers had in hand.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.permutation import permutation
from data_pipeline.tokens.encode import Encoded, vocabulary
from data_pipeline.tokens.packing import Pieces, best_fit, concatenate, count_cut
from data_pipeline.tokens.shards import token_dtype, write_index
from stemma.core.files import write_json

SIDECAR_ROWS = 16_384  # rows per group: what looking one document up has to read


@dataclass(frozen=True)
class ShardJob:
    """One shard to write.

    Attributes:
        name: the shard: the source, or ``<source>.t<tier>``.
        source: whose documents it takes; seeds their order.
        split: the documents of which split.
        tier: of which tier; None where the source has none, or the split is not divided.
        outputs: the source's encoded batches, in order.
        tokenizer: folder of the tokenizer.
        folder: the artifact's.
        scratch: where records and tiers are.
        seed: of the order of the documents.
        window: tokens of a window: what packing fills, and what cuts are counted for.
        packed: best fit, or one document after another.
    """

    name: str
    source: str
    split: str
    tier: int | None
    outputs: tuple[Path, ...]
    tokenizer: Path
    folder: Path
    scratch: Path
    seed: int
    window: int
    packed: bool

    @property
    def done(self) -> Path:
        """The record that is written last: the shard's entry of ``tokens.json``."""
        return self.scratch / "written" / self.split / f"{self.name}.json"


def tiers_file(scratch: Path, source: str) -> Path:
    """Where the tier of each document of a source is kept, ``[documents]`` int8, while shards are written."""
    return scratch / "tiers" / f"{source}.npy"


def write_shard(job: ShardJob) -> None:
    """Write ``<split>/<name>.bin``, ``.idx``, ``.docs.parquet`` and then the record."""
    _, sizes = vocabulary(job.tokenizer)
    dtype = token_dtype(len(sizes))
    encoded = Encoded(job.outputs, dtype)
    rows = permutation(len(encoded), job.seed, "documents", job.source).many(np.arange(len(encoded)))
    chosen = encoded.splits == encoded.split_names.index(job.split)
    if job.tier is not None:
        chosen &= np.load(tiers_file(job.scratch, job.source)) == job.tier
    rows = rows[chosen[rows]]
    lengths = encoded.lengths[rows]
    pieces = best_fit(lengths, job.window) if job.packed else concatenate(lengths)
    prefix = job.folder / job.split / job.name
    prefix.parent.mkdir(exist_ok=True)
    with _renamed(Path(f"{prefix}.bin")) as path, open(path, "wb") as handle:
        piece_bytes = _write_tokens(handle, encoded, rows, pieces, sizes)
    with _renamed(Path(f"{prefix}.idx")) as path:
        write_index(path, pieces.tokens, dtype)
    with _renamed(Path(f"{prefix}.docs.parquet")) as path:
        _write_sidecar(path, encoded, rows, pieces, piece_bytes)
    record: dict[str, Any] = {
        "documents": len(rows),
        "pieces": len(pieces.tokens),
        "tokens": int(lengths.sum()),
        "bytes": int(piece_bytes.sum()),
    }
    if job.split == "train":
        for name, order in (("cut", pieces), ("cut_by_concatenation", concatenate(lengths))):
            record[name] = vars(count_cut(order, lengths, job.window))
    write_json(job.done, record)


def _write_tokens(
    handle: Any, encoded: Encoded, rows: NDArray[np.int64], pieces: Pieces, sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Write the pieces' tokens; returns the bytes of text each stands for."""
    whole = encoded.lengths[rows[pieces.document]] == pieces.tokens
    found = np.where(whole, encoded.bytes[rows[pieces.document]], 0)
    spans = zip(rows[pieces.document], pieces.start, pieces.tokens, strict=True)
    for number, (row, start, count) in enumerate(spans):
        tokens = encoded.tokens(int(row), int(start), int(count))
        handle.write(tokens.tobytes())
        if not whole[number]:
            found[number] = sizes[tokens].sum()
    return found


def _write_sidecar(
    path: Path, encoded: Encoded, rows: NDArray[np.int64], pieces: Pieces, piece_bytes: NDArray[np.int64]
) -> None:
    """One row per piece, in the shard's order; a row group at a time."""
    offsets = np.cumsum(pieces.tokens) - pieces.tokens
    writer = None
    for first in range(0, max(1, len(offsets)), SIDECAR_ROWS):
        part = slice(first, first + SIDECAR_ROWS)
        mine = rows[pieces.document[part]]
        facts = encoded.facts(mine)
        table = pa.table(
            {
                "document": np.arange(first, first + len(mine), dtype=np.int64),
                "id": facts.column("id"),
                "origin": facts.column("origin"),
                "offset": offsets[part],
                "tokens": pieces.tokens[part],
                "start": pieces.start[part],
                "document_tokens": encoded.lengths[mine],
                "bytes": piece_bytes[part],
                "cluster": facts.column("cluster"),
                "decisions": facts.column("decisions"),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary name that becomes the file's when the block ends."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)
