"""The ranks of a deduplication, each a datatrove step that reads and writes files of its own.

    Hash    per input file          texts -> a part: digests, signatures, sorted bands
    Match   per band and key range  bands -> dropped documents, leaders
    Merge   once                    what all bands say -> per file, who goes, for whom; clusters
    Sort    per input file          documents -> kept, rejected, tallies

Memory: Hash and Sort hold a batch of documents. Match holds ``PARTITION`` entries of about 100
bytes and signatures in turn. Merge holds about 100 bytes per dropped document, and nothing for a kept one.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.config.dedup import DedupConfig
from data_pipeline.dedup.index import CLUSTERS, write_table
from data_pipeline.dedup.matching import Dropped, estimated, match, same_digest
from data_pipeline.dedup.minhash import band_keys, signatures
from data_pipeline.dedup.outputs import Outputs, Step, read, replaced
from data_pipeline.dedup.parts import (
    EXACT_BAND,
    I64,
    Parts,
    between,
    load,
    near_bands,
    order_of,
    ranges,
    save,
)

EXACT, NEAR = "exact_duplicate", "near_duplicate"
PARTITION = 500_000  # entries of a band in one rank, about


@dataclass(frozen=True)
class Pass:
    """One comparison of all documents of a folder.

    Attributes:
        clean: folder of the documents' files; file n is part n of the new ones.
        scratch: for what the ranks hand to one another.
        exact, near: which duplicates to look for.
        config: parameters.
    """

    clean: Path
    scratch: Path
    exact: bool
    near: bool
    config: DedupConfig

    @property
    def files(self) -> list[Path]:
        return sorted(self.clean.glob("*.parquet"))

    @property
    def bands(self) -> tuple[str, ...]:
        return ((EXACT_BAND,) if self.exact else ()) + (near_bands(self.config) if self.near else ())

    @property
    def rules(self) -> tuple[str, ...]:
        return ((EXACT,) if self.exact else ()) + ((NEAR,) if self.near else ())

    @property
    def matches(self) -> Path:
        return self.scratch / "matches"

    def part(self, rank: int) -> Path:
        return self.scratch / "parts" / f"{rank:05d}"


class Hash(Step):
    """Writes the part of one file."""

    name = "hash"

    def __init__(self, job: Pass) -> None:
        super().__init__()
        self.job = job

    def work(self, rank: int) -> None:
        job, folder = self.job, self.job.part(rank)
        ids: list[str] = []
        orders, digests, minima, has_words = [], [], [], []
        for batch in read(job.files[rank], ["id", "source", "text"]):
            names, sources, texts = (batch.column(name).to_pylist() for name in ("id", "source", "text"))
            ids += names
            orders.append(order_of(names, sources, job.config.prefer))
            if job.exact:
                raw = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
                digests.append(np.frombuffer(raw, "<u8").astype(np.uint64).reshape(-1, 2))
            if job.near:
                found, present = signatures(texts, job.config)
                minima.append(found)
                has_words.append(present)
        save(folder / "ids.npy", np.array([name.encode() for name in ids], np.bytes_))
        order = np.concatenate(orders) if orders else np.zeros(0, np.uint64)
        save(folder / "order.npy", order)
        everyone = np.arange(len(ids))
        if job.exact:
            halves = np.concatenate(digests) if digests else np.zeros((0, 2), np.uint64)
            save(folder / "digests.npy", np.ascontiguousarray(halves[:, 1]))
            self.save_band(folder, EXACT_BAND, halves[:, 0], everyone)
        if job.near:
            number = job.config.num_buckets * job.config.hashes_per_bucket
            minhash = np.concatenate(minima) if minima else np.zeros((0, number), np.uint32)
            save(folder / "minhash.npy", minhash.astype(np.uint8))
            with_words = everyone[np.concatenate(has_words)] if has_words else everyone
            for band, keys in zip(near_bands(job.config), band_keys(minhash[with_words], job.config)):
                self.save_band(folder, band, keys, with_words)

    def save_band(self, folder: Path, band: str, keys: Any, rows: I64) -> None:
        by_key = np.argsort(keys, kind="stable")
        save(folder / f"{band}.keys.npy", keys[by_key])
        save(folder / f"{band}.docs.npy", rows[by_key].astype(np.uint32))


class Match(Step):
    """Compares the documents whose keys in one band are in one range; a rank does several such pieces.

    Attributes:
        partitions: ranges of keys per band, so that one has about ``PARTITION`` documents at most, those of
            the kept index among them.
        tasks: ranks, so that one has about as many new ones in all its pieces.
    """

    name = "match"

    def __init__(self, job: Pass, parts: Parts) -> None:
        super().__init__()
        self.job = job
        self.parts = parts
        total = parts.starts[-1]
        self.partitions = max(1, -(-total // PARTITION))
        pieces = len(job.bands) * self.partitions
        self.tasks = min(pieces, max(1, -(-(total - parts.new) * len(job.bands) // PARTITION)))

    def work(self, rank: int) -> None:
        for piece in range(rank, len(self.job.bands) * self.partitions, self.tasks):
            self.compare(self.job.bands[piece // self.partitions], piece % self.partitions)

    def compare(self, band: str, partition: int) -> None:
        low, high = ranges(self.partitions, 1)[partition]
        gathered = [self.entries(part, band, low, high) for part in range(len(self.parts.folders))]
        kept = [entries for entries in gathered[: self.parts.tables] if entries is not None]
        fresh = [entries for entries in gathered[self.parts.tables :] if entries is not None]
        nothing = (np.zeros(0, np.uint64), np.zeros(0, np.int64))  # all may have been dropped before
        keys, numbers = (np.concatenate(column) for column in zip(nothing, *fresh))
        by_key = np.lexsort((numbers, self.parts.take("order", numbers), keys))
        exact = band == EXACT_BAND
        found = match(
            keys[by_key],
            numbers[by_key],
            kept,
            same_digest(self.parts) if exact else estimated(self.parts),
            1.0 if exact else self.job.config.threshold,
        )
        for name, array in vars(found).items():
            save(self.job.matches / f"{band}.{partition:05d}.{name}.npy", array)

    def entries(self, part: int, band: str, low: int, high: int) -> tuple[Any, I64] | None:
        """Keys of a range and their documents by number, sorted by key; None if the part has no such band."""
        folder = self.parts.folders[part]
        if not (folder / f"{band}.keys.npy").exists():
            return None
        keys, documents = between(folder, f"{band}.keys", (f"{band}.keys", f"{band}.docs"), low, high)
        return keys, documents.astype(np.int64) + self.parts.starts[part]


class Merge(Step):
    """Puts together what the bands found: who goes, per file; ``clusters.parquet`` and the index's table."""

    name = "merge"

    def __init__(
        self, job: Pass, parts: Parts, partitions: int, table: Path, extras: tuple[Path, ...]
    ) -> None:
        super().__init__()
        self.job = job
        self.parts = parts
        self.partitions = partitions
        self.table = table
        self.extras = extras

    def work(self, rank: int) -> None:
        parts, matches = self.parts, self.job.matches
        dropped = Dropped.nothing()
        for band in self.job.bands:
            pieces = [f"{band}.{partition:05d}" for partition in range(self.partitions)]
            documents, earlier, values = (
                np.concatenate([load(matches / f"{piece}.{name}.npy") for piece in pieces])
                for name in ("documents", "earlier", "similarity")
            )
            exact = np.full(len(documents), band == EXACT_BAND)
            dropped = dropped.joined(Dropped(documents, earlier, values, exact), parts)
        survivors = dropped.survivors(parts)
        leading = np.unique(survivors)
        write_clusters(matches / "clusters.parquet", parts, dropped, survivors)
        for index in range(parts.tables, len(parts.folders)):
            start, stop = parts.starts[index], parts.starts[index + 1]
            rows = slice(*np.searchsorted(dropped.documents, [start, stop]))
            heads = leading[slice(*np.searchsorted(leading, [start, stop]))]
            roots = np.arange(start, stop)
            roots[dropped.documents[rows] - start] = survivors[rows]
            save(parts.folders[index] / "roots.npy", roots)
            save(parts.folders[index] / "dropped.npy", dropped.documents[rows] - start)
            save(parts.folders[index] / "exact.npy", dropped.exact[rows])
            save(parts.folders[index] / "cluster.npy", parts.take("ids", survivors[rows]).astype(np.bytes_))
            save(parts.folders[index] / "heads.npy", heads - start)
        extras = (matches / "clusters.parquet", *self.extras)
        write_table(self.table, parts, matches, self.job.bands, extras, self.job.config)


def write_clusters(path: Path, parts: Parts, dropped: Dropped, survivors: I64) -> None:
    """Write who was dropped for whom, in order of number, in bounded memory."""
    draft = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(draft, CLUSTERS, compression="zstd") as writer:
        for at in range(0, len(survivors), 1 << 16):
            rows = slice(at, at + (1 << 16))
            columns = [
                names(parts, dropped.documents[rows]),
                names(parts, survivors[rows]),
                pa.array(np.where(dropped.exact[rows], "exact", "minhash"), pa.string()),
                names(parts, dropped.earlier[rows]),
                pa.array(dropped.similarity[rows], pa.float32()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=CLUSTERS))
    os.replace(draft, path)


def names(parts: Parts, numbers: I64) -> pa.Array:
    return pa.array(parts.take("ids", numbers).astype(np.bytes_), pa.binary()).cast(pa.string())


class Sort(Step):
    """Copies one file's documents to where they belong, and counts what passes each rule."""

    name = "sort"

    def __init__(self, job: Pass, kept: Path, rejects: Path, tallies: Path) -> None:
        super().__init__()
        self.job = job
        self.kept = kept
        self.rejects = rejects
        self.tallies = tallies

    def work(self, rank: int) -> None:
        job, part = self.job, self.job.part(rank)
        dropped, exact, clusters, heads = (
            np.array(load(part / f"{name}.npy")) for name in ("dropped", "exact", "cluster", "heads")
        )
        start = 0
        with Outputs(f"{rank:05d}", job.rules, self.kept, self.rejects, self.tallies) as outputs:
            for batch in read(job.files[rank]):
                rule = np.full(len(batch), "", object)
                cluster = np.asarray(batch.column("cluster").to_pylist(), object)
                rows = slice(*np.searchsorted(dropped, [start, start + len(batch)]))
                rule[dropped[rows] - start] = np.where(exact[rows], EXACT, NEAR)
                cluster[dropped[rows] - start] = [name.decode() for name in clusters[rows]]
                leading = heads[slice(*np.searchsorted(heads, [start, start + len(batch)]))] - start
                cluster[leading] = np.asarray(batch.column("id").to_pylist(), object)[leading]
                start += len(batch)
                outputs.write(replaced(pa.Table.from_batches([batch]), cluster=cluster), rule, cluster)
