"""What the report of a corpus shows, gathered from its files.

``funnel.json``, ``sources.json`` and ``statistics.json`` hold the counts. Texts are looked up: a few rows per
source and per rule, from files that are read in batches and only up to ``SCANNED`` rows, so neither memory
nor time grow with the corpus. A corpus of an earlier version has no statistics: they are then counted from
the same rows, and the report says so.
"""

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.inspection.rejects import document_text, files
from stemma.core.artifact import Artifact
from stemma.core.files import read_json

SCANNED = 200_000  # rows of documents, and of rejects, that are looked at
SAMPLES = 12  # documents shown
RULES = 16  # rules with examples
EXAMPLES = 3  # of each
HITS = 20  # contaminated documents shown
BATCH = 512
DUPLICATES = ("exact_duplicate", "near_duplicate", "line_duplicate", "substring_duplicate")


@dataclass(frozen=True)
class SourceFigures:
    """A source: documents and bytes read and kept, and what the profile says of it."""

    name: str
    domain: str
    licence: str
    language: str
    use: str
    read: tuple[int, int]
    kept: tuple[int, int]
    skipped: str = ""


@dataclass(frozen=True)
class Step:
    """A step of the funnel: documents and bytes it took, by domain."""

    name: str
    documents: dict[str, int]
    bytes: dict[str, int]


@dataclass(frozen=True)
class QualityFigures:
    """Scores of a quality artifact.

    Attributes:
        by_domain: domain of the corpus -> counts in twenty bins of 0 to 1.
        topics: taxonomy domain -> documents.
        criteria: name -> mean.
        card: figures of its evaluation.
    """

    by_domain: dict[str, list[int]]
    topics: dict[str, int]
    criteria: dict[str, float]
    card: dict[str, Any]


@dataclass(frozen=True)
class CorpusFigures:
    """All that ``corpus_page`` draws.

    Attributes:
        artifact: the corpus.
        sources: every source, those out of reach too.
        read, kept: documents and bytes by domain.
        steps: what each step of any chain took, in running order.
        statistics: as in ``statistics.json``.
        counted: rows the statistics were counted from, where the corpus has none of its own; else 0.
        rules: documents by rule.
        examples: rule -> rejected rows.
        samples: kept rows.
        clusters: the largest: survivor, source, origin, size; with texts where found.
        hits: rows of ``contamination.parquet``.
        hit_count: how many it has.
        hits_by: evaluation source -> rows.
        quality: scores, if given.
    """

    artifact: Artifact
    sources: list[SourceFigures]
    read: dict[str, tuple[int, int]]
    kept: dict[str, tuple[int, int]]
    steps: list[Step]
    statistics: dict[str, Any]
    counted: int
    rules: dict[str, int]
    examples: dict[str, list[dict[str, Any]]]
    samples: list[dict[str, Any]]
    clusters: list[dict[str, Any]]
    hits: list[dict[str, Any]] = field(default_factory=list)
    hit_count: int = 0
    hits_by: dict[str, int] = field(default_factory=dict)
    quality: QualityFigures | None = None

    @property
    def domains(self) -> list[str]:
        """Domains that were read."""
        return sorted(self.read)


def gather(corpus: Artifact, quality: Artifact | None = None, seed: int = 0) -> CorpusFigures:
    """Read what the report needs.

    Args:
        corpus: a corpus artifact of any version.
        quality: the scores of its documents.
        seed: of the texts shown.
    """
    funnel = _optional(corpus, "funnel.json") or {"sources": {}, "domains": {}}
    described = {entry["id"]: entry for entry in _optional(corpus, "sources.json") or []}
    statistics, counted = _optional(corpus, "statistics.json"), 0
    if not statistics:
        statistics, counted = _count(corpus, described)
    rules, examples = _rejects(corpus, funnel, seed)
    sources = [
        _source(name, described.get(name, {}), funnel) for name in sorted(described | funnel["sources"])
    ]
    hits, hits_by = _hits(corpus)
    return CorpusFigures(
        artifact=corpus,
        sources=sources,
        read=_by_domain(sources, "read"),
        kept=_by_domain(sources, "kept"),
        steps=_steps(funnel["sources"]),
        statistics=statistics,
        counted=counted,
        rules=rules,
        examples=examples,
        samples=_samples(corpus, sources, seed),
        clusters=_clusters(corpus, statistics),
        hits=hits,
        hit_count=sum(hits_by.values()),
        hits_by=hits_by,
        quality=_quality(quality, {source.name: source.domain for source in sources}) if quality else None,
    )


def _optional(artifact: Artifact, name: str) -> Any:
    """A file's JSON, or None where the artifact has no such file."""
    return read_json(artifact.path / name) if (artifact.path / name).is_file() else None


def _source(name: str, entry: Mapping[str, Any], funnel: Mapping[str, Any]) -> SourceFigures:
    counted = funnel["sources"].get(name, {})
    steps = counted.get("steps", [])
    ends = [(step["documents"], step["bytes"]) for step in steps] or [(0, 0)]
    return SourceFigures(
        name=name,
        domain=entry.get("domain", counted.get("domain", "")),
        licence=entry.get("licence", ""),
        language=entry.get("language", ""),
        use=entry.get("use", "train"),
        read=ends[0],
        kept=ends[-1],
        skipped=entry.get("skipped", ""),
    )


def _by_domain(sources: list[SourceFigures], at: str) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for source in sources:
        documents, size = getattr(source, at)
        if source.use == "train" and source.read[0]:
            before = found.get(source.domain, (0, 0))
            found[source.domain] = (before[0] + documents, before[1] + size)
    return found


def _steps(sources: Mapping[str, Any]) -> list[Step]:
    """The chains of all sources as one, each step after those that come before it in any chain."""
    order: list[str] = []
    documents: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for entry in sorted(sources.values(), key=lambda entry: -len(entry["steps"])):
        place = 0
        for before, step in itertools.pairwise(entry["steps"]):
            name = step["step"]
            if name not in order:
                order.insert(place, name)
            place = order.index(name) + 1
            documents[name][entry["domain"]] += before["documents"] - step["documents"]
            sizes[name][entry["domain"]] += before["bytes"] - step["bytes"]
    return [Step(name, dict(documents[name]), dict(sizes[name])) for name in order]


def spread(corpus: Artifact, kind: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of up to ``SCANNED`` rows of a corpus, as many of each source as of any other, where it has
    them."""
    by_source: dict[str, list[Any]] = defaultdict(list)
    for path in files(corpus, kind):
        by_source[path.parent.name].append(path)
    each = -(-SCANNED // max(1, len(by_source)))
    for paths in by_source.values():
        left = each
        for path in paths:
            if left <= 0:
                break
            file = pq.ParquetFile(path)
            named = [name for name in columns if name in file.schema_arrow.names] if columns else None
            for batch in file.iter_batches(BATCH, columns=named):
                yield batch.slice(0, left)
                left -= batch.num_rows
                if left <= 0:
                    break


def _count(corpus: Artifact, described: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Statistics of a corpus that brought none, from as many of its rows as are looked at."""
    from data_pipeline.corpus.statistics import Statistics, summarise

    counts: dict[str, Statistics] = {}
    seen = 0
    members: dict[str, int] = defaultdict(int)
    for batch in spread(corpus, "rejects"):
        table = pa.Table.from_batches([batch])
        for source in sorted(set(table["source"].to_pylist())):
            mine = table.filter(pa.compute.equal(table["source"], source))
            counts.setdefault(source, Statistics()).add_rejects(mine, DUPLICATES)
        for name in table["cluster"].to_pylist() if "cluster" in table.schema.names else []:
            members[name] += bool(name)
    sizes = {name: number for name, number in members.items() if number}
    domains: dict[str, str] = {}
    for batch in spread(corpus, "documents"):
        table = pa.Table.from_batches([batch])
        if table.num_rows:
            source = table["source"][0].as_py()
            domains[source] = table["domain"][0].as_py()
            counts.setdefault(source, Statistics()).add_documents(table, sizes)
            seen += table.num_rows
    about = [
        {"id": name, "domain": domains.get(name, ""), "licence": "", **described.get(name, {})}
        for name in counts
    ]
    return summarise(counts, about), seen


def _samples(corpus: Artifact, sources: list[SourceFigures], seed: int) -> list[dict[str, Any]]:
    """Kept documents, in turn from the sources with the most bytes, out of a file of each."""
    rng = random.Random(seed)
    ranked = sorted((source for source in sources if source.kept[0]), key=lambda s: (-s.kept[1], s.name))
    ranked = ranked[:SAMPLES]
    found = []
    for at, source in enumerate(ranked):
        paths = files(corpus, "documents", source.name)
        if not paths:
            continue
        wanted = len(range(at, SAMPLES, len(ranked)))
        batch = next(pq.ParquetFile(rng.choice(paths)).iter_batches(BATCH), None)
        if batch is None or not batch.num_rows:
            continue
        picked = sorted(rng.sample(range(batch.num_rows), min(wanted, batch.num_rows)))
        found += batch.take(pa.array(picked)).to_pylist()
    return found


def _rejects(
    corpus: Artifact, funnel: Mapping[str, Any], seed: int
) -> tuple[dict[str, int], dict[str, list[dict[str, Any]]]]:
    """Documents by rule, whole from the funnel; and a few rows of the most frequent rules."""
    rules: dict[str, int] = defaultdict(int)
    for entry in funnel["sources"].values():
        for rule, number in entry.get("rejected", {}).items():
            rules[rule] += number
    rng = random.Random(seed)
    seen: dict[str, int] = defaultdict(int)
    kept: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for batch in spread(corpus, "rejects"):
        for row, rule in enumerate(batch.column("rule").to_pylist()):
            place = len(kept[rule]) if seen[rule] < EXAMPLES else rng.randrange(seen[rule] + 1)
            seen[rule] += 1
            if place < EXAMPLES:
                kept[rule][place : place + 1] = batch.slice(row, 1).to_pylist()
    ranked = dict(sorted((rules or seen).items(), key=lambda item: (-item[1], item[0])))
    return ranked, {rule: kept[rule] for rule in list(ranked)[:RULES] if kept[rule]}


def _clusters(corpus: Artifact, statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The largest clusters, with the beginning of the text that was kept."""
    largest = statistics["total"]["clusters"]["largest"]
    return [{**entry, "text": document_text(corpus, entry["source"], entry["survivor"])} for entry in largest]


def _hits(corpus: Artifact) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The first hits, and how many there are by evaluation source."""
    path = corpus.path / "contamination.parquet"
    if not path.is_file():
        return [], {}
    file = pq.ParquetFile(path)
    by_source: Counter[str] = Counter()
    for batch in file.iter_batches(65_536, columns=["evaluation_source"]):
        by_source.update(batch.column("evaluation_source").to_pylist())
    first = next(file.iter_batches(HITS), None)
    ranked = dict(sorted(by_source.items(), key=lambda item: (-item[1], item[0])))
    return (first.to_pylist() if first is not None else []), ranked


def _quality(quality: Artifact, domains: Mapping[str, str]) -> QualityFigures | None:
    """Distributions of the scores; None where no labels were configured."""
    by_domain: dict[str, Any] = {}
    topics: dict[str, int] = defaultdict(int)
    sums: dict[str, float] = defaultdict(float)
    rows = 0
    for path in sorted(quality.path.glob("scores/*.parquet")):
        file = pq.ParquetFile(path)
        fixed = ("id", "quality", "domain", "subdomain")
        criteria = [name for name in file.schema_arrow.names if name not in fixed]
        for batch in file.iter_batches(65_536, columns=["quality", "domain", *criteria]):
            scores = batch.column("quality").to_numpy(zero_copy_only=False)
            places = np.minimum((np.clip(scores, 0, 1) * 20).astype(int), 19)
            counts = np.bincount(places, minlength=20)
            name = domains.get(path.stem, "other")
            by_domain[name] = by_domain.get(name, np.zeros(20, dtype=np.int64)) + counts
            for entry in batch.column("domain").value_counts().to_pylist():
                topics[entry["values"]] += entry["counts"]
            for criterion in criteria:
                sums[criterion] += float(np.sum(batch.column(criterion).to_numpy(zero_copy_only=False)))
            rows += batch.num_rows
    if not rows:
        return None
    path = quality.path / "card.json"
    return QualityFigures(
        {name: counts.tolist() for name, counts in by_domain.items()},
        dict(sorted(topics.items(), key=lambda item: (-item[1], item[0]))),
        {name: total / rows for name, total in sums.items()},
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {},
    )
