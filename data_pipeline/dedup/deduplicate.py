"""Deduplication of a corpus: equal texts, near-duplicates, and a kept index for the next run."""

from pathlib import Path

import pyarrow.parquet as pq

from data_pipeline.config.dedup import DedupConfig
from data_pipeline.dedup.index import copy_tables, open_index
from data_pipeline.dedup.lines import LINES, cut_lines
from data_pipeline.dedup.parts import Parts
from data_pipeline.dedup.steps import EXACT, NEAR, Hash, Match, Merge, Pass, Sort
from data_pipeline.dedup.substring import SUBSTRING, cut_repeated
from data_pipeline.executor.ranks import Executor


def dedup_steps(config: DedupConfig) -> tuple[str, ...]:
    """Names of the tallies, in the order documents pass them; rejects have them as rules."""
    steps = (EXACT, LINES, NEAR) if config.lines else (EXACT, NEAR)
    return (*steps, SUBSTRING) if config.substring else steps


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
        rejects: folder for the dropped documents, per rule; `value` and `cluster` of duplicates name the
            survivor. With lines there are two comparisons: who survives the first may go in the second.
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
    near = kept if config.substring is None else scratch / "dissimilar"
    if config.lines is None:
        job = Pass(clean, scratch / "dedup", exact=True, near=True, config=config)
        compare(pool, "dedup", job, tables, sizes, index)
        pool.run("dedup_sort", [Sort(job, near, rejects, tallies)], len(job.files))
    else:
        unequal, lined = scratch / "unequal", scratch / "lined"
        job = Pass(clean, scratch / "exact", exact=True, near=False, config=config)
        compare(pool, "exact", job, tables, sizes, index)
        pool.run("exact_sort", [Sort(job, unequal, rejects, tallies)], len(job.files))
        files = sorted(unequal.glob("*.parquet"))
        extras = cut_lines(pool, config.lines, files, lined, scratch / "lines", rejects, tallies, tables)
        job = Pass(lined, scratch / "near", exact=False, near=True, config=config)
        compare(pool, "near", job, tables, sizes, index, extras)
        pool.run("near_sort", [Sort(job, near, rejects, tallies)], len(job.files))
    if config.substring is not None:
        files = sorted(near.glob("*.parquet"))
        spans = scratch / "spans"
        cut_repeated(pool, config.substring, config.prefer, files, kept, spans, rejects, tallies)


def compare(
    pool: Executor,
    name: str,
    job: Pass,
    tables: list[Path],
    sizes: list[int],
    index: Path,
    extras: tuple[Path, ...] = (),
) -> None:
    """Find the duplicates of a pass and add a table to the index, and to ``tables`` and ``sizes``."""
    files = job.files
    counts = [*sizes, *(pq.read_metadata(path).num_rows for path in files)]
    starts = tuple(sum(counts[:number]) for number in range(len(counts) + 1))
    folders = (*tables, *(job.part(rank) for rank in range(len(files))))
    parts = Parts(folders, starts, len(tables))
    pool.run(f"{name}_hash", [Hash(job)], len(files))
    match = Match(job, parts)
    pool.run(f"{name}_match", [match], match.tasks)
    table = index / f"{len(tables):05d}"
    pool.run(f"{name}_merge", [Merge(job, parts, match.partitions, table, extras)], 1)
    tables.append(table)
    sizes.append(starts[-1] - parts.new)
