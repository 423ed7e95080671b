"""The corpus stage: sources -> documents, filtered, deduplicated, split, with every reject and its reason.

    read (a rank per 2 MB of files) -> filter (a rank per 1 MB of text) -> exact and MinHash dedup -> write

Ranks depend on the files alone, so any number of workers gives the same bytes. What sources there are, and
what is in them, is found out before the fingerprint is taken (``resolve``): a corpus made with no registry
in reach is another artifact than the full one, and so is one made by another Python, whose standard library
it reads.
"""

import hashlib
import importlib.metadata
import math
import shutil
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from datatrove.pipeline.readers import ParquetReader

from data_pipeline.cleaning.chain import Decide, build_chain
from data_pipeline.cleaning.filters import (
    DOCUMENTS,
    DRAFTS,
    REJECTS,
    RejectWriter,
    Tally,
    tallied,
    to_draft,
    writer,
)
from data_pipeline.config import CorpusConfig
from data_pipeline.dedup.minhash import EXACT, NEAR, deduplicate
from data_pipeline.executor.local import Pool, worker_pool
from data_pipeline.sources.find import Found, SourceReader, describe, document_id, look, units
from data_pipeline.sources.packages import OutOfReach
from stemma.core.errors import StemmaError
from stemma.core.files import write_json
from stemma.core.progress import Progress
from stemma.core.stage import Execution, Stage, Workspace

SHARD_BYTES = 1_000_000  # of text per rank of the filters, at least
MAX_SHARDS = 1_000  # about so many; large corpora get larger shards
FILE_BYTES = 64_000_000  # of text per file of the result
MB = 1e6


class EmptyCorpus(StemmaError):
    """Nothing to read, or nothing left."""


class CorpusStage(Stage):
    """Makes the artifact ``corpus``; its files are described in docs/architecture.md."""

    kind: ClassVar[str] = "corpus"
    recipe: ClassVar[int] = 1
    config: CorpusConfig

    def resolve(self, cache: Path, execution: Execution, progress: Progress) -> None:
        """Fetch what can be fetched, look at what is there, and remember what cannot be had.

        Raises:
            EmptyCorpus: not one source is in reach.
            DamagedError, PackageError, SourceError: a source is not what the profile says.
        """
        if self.resolved:
            return  # this object has looked; a run must not change its mind halfway
        self.found: dict[str, Found] = {}
        self.skipped: dict[str, str] = {}
        names = sorted(self.config.sources)

        def attempt(name: str) -> Found | OutOfReach:
            try:
                return look(self.config.sources[name], cache, execution.offline)
            except OutOfReach as reason:
                return reason

        with ThreadPoolExecutor(4) as threads:  # waiting for a registry, not computing
            for name, result in zip(names, threads.map(attempt, names)):
                if isinstance(result, OutOfReach):
                    self.skipped[name] = str(result)
                    progress.say(f"source {name} is left out: {result}")
                else:
                    self.found[name] = result
        if not self.found:
            raise EmptyCorpus(
                f"no source can be read: {self.skipped}. Give it a registry, or a local source."
            )
        self.resolved = {
            "sources": {name: found.digest for name, found in self.found.items()},
            "skipped": sorted(self.skipped),
            # whose word splitting and rules decide what is kept
            "software": {name: importlib.metadata.version(name) for name in ("datatrove", "spacy")},
        }

    def run(self, work: Workspace) -> dict[str, Any]:
        scratch = work.scratch
        if self.skipped:
            work.progress.say(f"going on without {len(self.skipped)} of {len(self.config.sources)} sources")
        with worker_pool(work.execution.workers, scratch / "logs") as pool:
            self._read(pool, work)
            self._filter(pool, work)
            work.progress.say("removing duplicates")
            deduplicate(
                pool,
                self.config.dedup,
                scratch / "clean",
                scratch / "kept",
                scratch,
                scratch / "rejects",
                scratch / "tallies" / "dedup",
            )
        work.progress.say(f"without duplicates {amount(tallied(scratch / 'tallies' / 'dedup', NEAR))}")
        return self._write(work)

    def _read(self, pool: Pool, work: Workspace) -> None:
        sources = self.config.sources
        work_units = [
            unit for name, found in self.found.items() for unit in units(name, sources[name], found)
        ]
        # generators first: they take longest, and the other workers fill the time
        work_units.sort(key=lambda unit: getattr(sources[unit.source], "format", "") != "engram")
        scratch = work.scratch
        reader = SourceReader(
            work_units,
            dict(sources),
            {name: found.location for name, found in self.found.items()},
            self.config.max_document_bytes,
            max(
                SHARD_BYTES,
                sum(size for found in self.found.values() for size in found.files.values()) // MAX_SHARDS,
            ),
            RejectWriter(scratch / "rejects" / "read"),
        )
        drafts = writer(scratch / "raw", "${chain}/${source}_${rank}_${shard}.parquet", to_draft, DRAFTS)
        run_phase(pool, work, "read", [reader, Tally(scratch / "tallies", "read"), drafts], len(work_units))
        work.progress.say(f"read {amount(tallied(scratch / 'tallies', 'read'))}")

    def _filter(self, pool: Pool, work: Workspace) -> None:
        scratch = work.scratch
        for chain, language in sorted({(s.filters, s.language) for s in self.config.sources.values()}):
            folder = scratch / "raw" / f"{chain}.{language}"
            tasks = len(list(folder.glob("*.parquet")))
            if not tasks:
                continue
            steps = self.config.filters[chain]
            names = tuple(step.name for step in steps)
            name = f"{chain}.{language}"
            pipeline = [
                ParquetReader(str(folder)),
                *build_chain(steps, language, scratch / "rejects" / name, scratch / "tallies" / name),
                Decide(names, document_id),
                writer(scratch / "clean", f"{name}_${{rank}}.parquet", to_draft, DRAFTS),
            ]
            run_phase(pool, work, f"filter {name}", pipeline, tasks)
            left = tallied(scratch / "tallies" / name, names[-1])
            work.progress.say(f"chain {name} kept {amount(left)}")
        if not any((scratch / "clean").glob("*.parquet")):
            raise EmptyCorpus(
                "no document survived the filters; most frequent reasons: "
                f"{reasons(rejected(scratch / 'rejects'))}. Check the sources' `filters` and `language`."
            )

    def _write(self, work: Workspace) -> dict[str, Any]:
        """Write the files of the artifact from what the pipelines left in scratch."""
        for folder in ("documents", "rejects"):  # of a run that was killed while it wrote
            shutil.rmtree(work.path / folder, ignore_errors=True)
        scratch = work.scratch
        kept = ds.dataset(str(scratch / "kept"), schema=DRAFTS, format="parquet")
        leaders = cluster_leaders(kept)
        counts: dict[str, dict[str, int]] = {}
        for name in self.found:
            table = kept.to_table(filter=ds.field("source") == name).sort_by("id")
            table = label(table, leaders, self.config.valid_fraction)
            write_files(table.select(DOCUMENTS.names), work.path / "documents" / name)
            valid = pc.sum(pc.equal(table["split"], "valid")).as_py() or 0
            counts[name] = {"documents": table.num_rows, "valid": valid}
        dropped = rejected(scratch / "rejects")
        if dropped is not None:
            for name in self.found:
                table = dropped.filter(pc.equal(dropped["source"], name)).sort_by(
                    [("rule", "ascending"), ("id", "ascending")]
                )
                write_files(name_clusters(table, leaders), work.path / "rejects" / name)
        funnel = self._funnel(scratch / "tallies", dropped)
        write_json(work.path / "funnel.json", funnel)
        described = [
            describe(name, source, self.found.get(name), self.skipped.get(name, ""))
            for name, source in sorted(self.config.sources.items())
        ]
        write_json(work.path / "sources.json", described)
        for name, count in counts.items():
            if not count["documents"]:
                work.progress.say(f"source {name}: no document was kept; {reasons(dropped, name)}")
        return self._summary(funnel, counts)

    def _funnel(self, tallies: Path, dropped: pa.Table | None) -> dict[str, Any]:
        """Documents and bytes after every step, per source and per domain; rejects by rule."""
        per_source: dict[str, Any] = {}
        by_rule: dict[str, dict[str, int]] = defaultdict(dict)
        if dropped is not None:
            for row in dropped.group_by(["source", "rule"]).aggregate([("id", "count")]).to_pylist():
                by_rule[row["source"]][row["rule"]] = row["id_count"]
        for name in self.found:
            source = self.config.sources[name]
            chain = tallies / f"{source.filters}.{source.language}"
            steps = [("read", tallied(tallies, "read"))]
            steps += [(step, tallied(chain, step)) for step in self.config.filters[source.filters]]
            steps += [(step, tallied(tallies / "dedup", step)) for step in (EXACT, NEAR)]
            per_source[name] = {
                "domain": source.domain,
                "steps": [
                    {
                        "step": step,
                        "documents": counts.get(name, (0, 0))[0],
                        "bytes": counts.get(name, (0, 0))[1],
                    }
                    for step, counts in steps
                ],
                "rejected": dict(sorted(by_rule[name].items())),
            }
        domains: dict[str, dict[str, dict[str, int]]] = {}
        for entry in per_source.values():
            domain = domains.setdefault(
                entry["domain"], {at: {"documents": 0, "bytes": 0} for at in ("read", "kept")}
            )
            for at, step in (("read", entry["steps"][0]), ("kept", entry["steps"][-1])):
                for unit in ("documents", "bytes"):
                    domain[at][unit] += step[unit]
        return {"sources": per_source, "domains": domains}

    def _summary(self, funnel: dict[str, Any], counts: dict[str, dict[str, int]]) -> dict[str, Any]:
        domains = funnel["domains"]
        total = {
            at: {
                unit: sum(domain[at][unit] for domain in domains.values()) for unit in ("documents", "bytes")
            }
            for at in ("read", "kept")
        }
        return {
            "sources": len(self.found),
            "skipped": sorted(self.skipped),
            "documents": total["kept"]["documents"],
            "valid_documents": sum(count["valid"] for count in counts.values()),
            "bytes": total["kept"]["bytes"],
            "documents_read": total["read"]["documents"],
            "bytes_read": total["read"]["bytes"],
            "domains": domains,
            "funnel": (
                f"{total['read']['documents']:,} documents ({total['read']['bytes'] / MB:.1f} MB) read, "
                f"{total['kept']['documents']:,} ({total['kept']['bytes'] / MB:.1f} MB) kept"
            ),
        }


def run_phase(pool: Pool, work: Workspace, name: str, pipeline: list[Any], tasks: int) -> None:
    """Run one pipeline and report each finished shard."""

    def done(count: int) -> None:
        work.progress.step(count, tasks, "shards", name)

    pool.run(name.replace(" ", "_"), pipeline, tasks, done)


def amount(counts: dict[str, tuple[int, int]]) -> str:
    """Documents and megabytes of a tally, as text."""
    documents, size = (sum(count[index] for count in counts.values()) for index in (0, 1))
    return f"{documents:,} documents, {size / MB:.1f} MB"


def cluster_leaders(kept: ds.Dataset) -> dict[str, str]:
    """Number of a near-duplicate cluster -> id of the one document of it that was kept."""
    table = kept.to_table(columns=["id", "cluster"], filter=ds.field("cluster") != "")
    return dict(zip(table["cluster"].to_pylist(), table["id"].to_pylist()))


def name_clusters(table: pa.Table, leaders: dict[str, str]) -> pa.Table:
    """Replace datatrove's running numbers of clusters by the id of the document that was kept."""
    names = pa.array([leaders.get(number, "") for number in table["cluster"].to_pylist()], pa.string())
    table = table.set_column(table.schema.get_field_index("cluster"), "cluster", names)
    if "rule" not in table.schema.names:
        return table
    values = [
        leader if rule == NEAR else value
        for leader, rule, value in zip(
            names.to_pylist(), table["rule"].to_pylist(), table["value"].to_pylist()
        )
    ]
    return table.set_column(table.schema.get_field_index("value"), "value", pa.array(values, pa.string()))


def label(table: pa.Table, leaders: dict[str, str], valid_fraction: float) -> pa.Table:
    """Fill in ``cluster`` and ``split`` of one source's documents."""
    held_out = hold_out(table["whole"].to_pylist(), valid_fraction)
    split = pa.array(
        ["valid" if whole in held_out else "train" for whole in table["whole"].to_pylist()], pa.string()
    )
    table = table.set_column(table.schema.get_field_index("split"), "split", split)
    return name_clusters(table, leaders)


def hold_out(wholes: Iterable[str], fraction: float) -> set[str]:
    """Choose documents for validation: those with the smallest hashes, at least ``fraction`` of them.

    Parts of one text (which share ``whole``) stay together, and one text is always left for training.

    Args:
        wholes: per document, the text it was cut from.
        fraction: of the documents.
    """
    parts_of: dict[str, int] = defaultdict(int)
    for whole in wholes:
        parts_of[whole] += 1
    wanted = math.ceil(sum(parts_of.values()) * fraction)
    chosen: set[str] = set()
    for whole in sorted(parts_of, key=lambda text: hashlib.sha256(f"valid\0{text}".encode()).digest())[:-1]:
        if wanted <= 0:
            break
        chosen.add(whole)
        wanted -= parts_of[whole]
    return chosen


def rejected(folder: Path) -> pa.Table | None:
    """All rejects that the pipelines wrote below a folder."""
    files = sorted(str(path) for path in folder.rglob("*.parquet"))
    return ds.dataset(files, schema=REJECTS, format="parquet").to_table() if files else None


def reasons(dropped: pa.Table | None, source: str | None = None) -> str:
    """The three most frequent rules, as text."""
    if dropped is None:
        return "nothing was rejected"
    table = dropped if source is None else dropped.filter(pc.equal(dropped["source"], source))
    rules = (
        table.group_by("rule")
        .aggregate([("id", "count")])
        .sort_by([("id_count", "descending"), ("rule", "ascending")])
    )
    return (
        ", ".join(f"{row['rule']} {row['id_count']}" for row in rules.to_pylist()[:3]) or "nothing was read"
    )


def write_files(table: pa.Table, folder: Path) -> None:
    """Write rows in order to ``<folder>/<nnnnn>.parquet``, a new file after about ``FILE_BYTES`` of text."""
    if not table.num_rows:
        return
    folder.mkdir(parents=True)
    sizes = pc.binary_length(table["text"]).to_pylist()
    start, size, number = 0, 0, 0
    for row, length in enumerate([*sizes, FILE_BYTES]):
        if row == len(sizes) or (size + length > FILE_BYTES and row > start):
            pq.write_table(
                table.slice(start, row - start), folder / f"{number:05d}.parquet", compression="zstd"
            )
            start, size, number = row, 0, number + 1
        size += length
