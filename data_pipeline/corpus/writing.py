"""The last passes: sort what was kept and what was rejected, split, count, and write the artifact's files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.cleaning.records import DOCUMENTS, DRAFTS, REJECTS
from data_pipeline.corpus.sorting import Range, read_range, write_rows
from data_pipeline.corpus.splits import hold_out_hash
from data_pipeline.corpus.statistics import Statistics
from data_pipeline.dedup.deduplicate import EXACT, NEAR

FILE_BYTES = 64_000_000  # of text per file of the result, about
ROW_GROUP_BYTES = 16_000_000  # of text; what a reader of one document has to load
DUPLICATES = (EXACT, NEAR)  # rules whose value is the id of the document that was kept
ID_BYTES = 20


class Folders:
    """Where the last passes keep things in the scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.kept = scratch / "kept"
        self.rejects = scratch / "rejects"
        self.runs = scratch / "sorted"
        self.hashes = scratch / "sorted" / "hashes"
        self.survivors = scratch / "sorted" / "survivors"
        self.statistics = scratch / "statistics"


class NoteHashes:
    """Keeps the hold-out hash of every kept document, for the choice of the validation split."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, rank: int, source: str, rows: pa.Table) -> None:
        hashes = np.fromiter(map(hold_out_hash, rows["whole"].to_pylist()), np.uint64, rows.num_rows)
        path = self.folder / source / f"{rank:05d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, hashes)


class NoteSurvivors:
    """Keeps, for every duplicate, the id of the document that was kept instead; sorted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, rank: int, source: str, rows: pa.Table) -> None:
        duplicates = rows.filter(pc.is_in(rows["rule"], pa.array(DUPLICATES)))
        ids = np.sort(np.array(duplicates["value"].to_pylist(), dtype=f"S{ID_BYTES}"))
        path = self.folder / f"{rank:05d}.{source}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, ids)


def duplicates_of(files: Sequence[Path], start: str, stop: str | None) -> dict[str, int]:
    """How many duplicates each kept document stands for, of those with ids in a range."""
    pieces = [np.zeros(0, dtype=f"S{ID_BYTES}")]
    for path in files:
        ids = np.load(path, mmap_mode="r")
        low = np.searchsorted(ids, start.encode())
        high = len(ids) if stop is None else np.searchsorted(ids, stop.encode())
        pieces.append(np.asarray(ids[low:high]))
    names, counts = np.unique(np.concatenate(pieces), return_counts=True)
    return {name.decode(): int(count) for name, count in zip(names, counts)}


class WriteDocuments(PipelineStep):
    """Second pass: rank n writes one file of one source's documents, and counts them.

    Args:
        ranges: what to write, per rank.
        bounds: hold-out bound per source.
        survivors: files of ``NoteSurvivors``.
        folder: of the artifact's ``documents``.
        statistics: folder for the counts.
    """

    type = "💽 - WRITER"
    name = "write documents"

    def __init__(
        self,
        ranges: list[Range],
        bounds: dict[str, int],
        survivors: list[Path],
        folder: Path,
        statistics: Path,
    ) -> None:
        super().__init__()
        self.ranges = ranges
        self.bounds = bounds
        self.survivors = survivors
        self.folder = folder
        self.statistics = statistics

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        wanted = self.ranges[rank]
        table = label(read_range(wanted, DRAFTS), self.bounds[wanted.source]).select(DOCUMENTS.names)
        write_rows(table, self.folder / wanted.source / f"{wanted.number:05d}.parquet", ROW_GROUP_BYTES)
        counts = Statistics()
        stop = wanted.stop[1] if wanted.stop else None
        counts.add_documents(table, duplicates_of(self.survivors, wanted.start[1], stop))
        counts.save(self.statistics / wanted.source / f"documents.{wanted.number:05d}.json")
        yield from ()


class WriteRejects(PipelineStep):
    """Second pass: rank n writes one file of one source's rejects, and counts them."""

    type = "💽 - WRITER"
    name = "write rejects"

    def __init__(self, ranges: list[Range], folder: Path, statistics: Path) -> None:
        super().__init__()
        self.ranges = ranges
        self.folder = folder
        self.statistics = statistics

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        wanted = self.ranges[rank]
        table = read_range(wanted, REJECTS)
        write_rows(table, self.folder / wanted.source / f"{wanted.number:05d}.parquet", ROW_GROUP_BYTES)
        counts = Statistics()
        counts.add_rejects(table, DUPLICATES)
        counts.save(self.statistics / wanted.source / f"rejects.{wanted.number:05d}.json")
        yield from ()


def label(table: pa.Table, bound: int) -> pa.Table:
    """Fill in ``split`` of one source's documents."""
    split = ["valid" if hold_out_hash(whole) < bound else "train" for whole in table["whole"].to_pylist()]
    index = table.schema.get_field_index("split")
    return table.set_column(index, "split", pa.array(split, pa.string()))
