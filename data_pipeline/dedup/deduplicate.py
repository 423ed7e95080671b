"""Deduplication of a corpus: equal texts, near-duplicates, and a kept index for the next run."""

from pathlib import Path

import pyarrow.parquet as pq

from data_pipeline.config.dedup import DedupConfig
from data_pipeline.dedup.index import copy_tables, open_index
from data_pipeline.dedup.parts import Parts
from data_pipeline.dedup.steps import EXACT, NEAR, Hash, Match, Merge, Pass, Sort
from data_pipeline.executor.ranks import Executor


def dedup_steps(config: DedupConfig) -> tuple[str, ...]:
    """Names of the tallies, in the order documents pass them."""
    return (EXACT, NEAR)


def deduplicate(
    pool: Executor,
    config: DedupConfig,
    clean: Path,
    kept: Path,
    scratch: Path,
    rejects: Path,
    tallies: Path,
    index: Path,
    base: Path | None = None,
) -> None:
    """Copy documents from ``clean`` to ``kept`` (one file per file), without duplicates.

    Who survives is decided by precedence (the base, preferred sources, a hash of the id), so it does not
    depend on the number of workers, nor on how documents are spread over files.

    Args:
        pool: where to run.
        config: what counts as a duplicate.
        clean: folder of Parquet files with the columns of ``DRAFTS``.
        kept: folder to write to. `cluster` is the id of the document for which others were dropped, or "".
        scratch: for what the ranks hand to one another.
        rejects: folder for the dropped documents, per rule; their `value` and `cluster` name the survivor.
        tallies: folder for a tally per name of ``dedup_steps``.
        index: folder for the kept index: the base's tables and what this run adds.
        base: the kept index of an earlier run, with which new documents are compared.

    Raises:
        DamagedError: the base is damaged.
        IndexMismatch: the base was made with other parameters.
    """
    tables, sizes = open_index(base, config) if base is not None else ([], [])
    for folder in (kept, index):
        folder.mkdir(parents=True, exist_ok=True)
    if base is not None:
        copy_tables(base, index)
    job = Pass(clean, scratch / "dedup", exact=True, near=True, config=config)
    compare(pool, "", job, tables, sizes, index)
    pool.run("dedup_sort", [Sort(job, kept, rejects, tallies)], len(job.files))


def compare(pool: Executor, name: str, job: Pass, tables: list[Path], sizes: list[int], index: Path) -> None:
    """Find the duplicates of a pass and add a table to the index."""
    files = job.files
    counts = [*sizes, *(pq.read_metadata(path).num_rows for path in files)]
    starts = tuple(sum(counts[:number]) for number in range(len(counts) + 1))
    folders = (*tables, *(job.part(rank) for rank in range(len(files))))
    parts = Parts(folders, starts, len(tables))
    pool.run(f"dedup_hash{name}", [Hash(job)], len(files))
    match = Match(job, parts)
    pool.run(f"dedup_match{name}", [match], match.tasks)
    table = index / f"{len(tables):05d}"
    pool.run(f"dedup_merge{name}", [Merge(job, parts, match.partitions, table)], 1)
