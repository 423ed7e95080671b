"""Statistics of a corpus, counted in the same pass that writes it: the file ``statistics.json``.

It holds what a report draws, so that nobody has to read the documents again::

    {"schema": 1,
     "sources": {SOURCE: ENTRY, ...},     every source that was read
     "domains": {DOMAIN: ENTRY, ...},     sums of their sources
     "total": ENTRY}

An ENTRY is::

    {"domain": "web",                     not in `total`; with "licence" and "inherited" in a source's entry
     "documents": 120, "valid": 3, "bytes": 5000, "characters": 4900, "lines": 200,      of what was kept
     "language": {"en": 120},             documents by the language their source states
     "document_bytes": HISTOGRAM,         UTF-8 bytes per document
     "document_characters": HISTOGRAM,
     "line_characters": HISTOGRAM,        characters per line
     "language_score": HISTOGRAM,         where a language step ran
     "origins": [{"origin": "gensim.whl", "documents": 80, "bytes": 3000}, ...],   20 with most bytes
     "other_origins": {"origins": 3, "documents": 9, "bytes": 90},                  what is not in the list
     "clusters": {"sizes": HISTOGRAM,     documents per duplicate cluster, the kept one included
                  "largest": [{"survivor": ID, "source": SOURCE, "origin": ORIGIN, "size": 9}, ...]},  10
     "rejected": {RULE: {"documents": 7, "bytes": 70,
                         "values": HISTOGRAM,              where the rule gives numbers
                         "kinds": {"de": 5, "fr": 2}}}}    where it gives words: the first word, 20 at most

A HISTOGRAM is ``{"edges": [0, 16, 32], "counts": [5, 2]}``: ``counts[i]`` values lie in ``edges[i] <= v <
edges[i + 1]``, empty ends left out; ``{"edges": [], "counts": []}`` where there is nothing. Lengths have two
bins per octave, scores fifty up to 1, rules' values twenty up to 1 and one per octave above.

``statistics/<source>.json`` has the same counts whole (``Statistics.save``), for a corpus that extends this.

Origins are hosts of URLs, top folders of archives and packages, and folders of files. Their counts, and those
of words in ``kinds``, are exact up to 10,000 different ones; beyond that the rarest are left out.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stemma.core.files import write_json

STATISTICS = "statistics.json"
SCHEMA = 1
LENGTHS = np.array([0, *sorted({round(2 ** (k / 2)) for k in range(81)})], dtype=np.float64)
SCORES = np.round(np.arange(0, 1.02, 0.02), 2)
VALUES = np.array([*np.round(np.arange(0, 1, 0.05), 2), *(2.0**k for k in range(41))])
CLUSTERS = np.array([2, 3, 4, 5, 6, 8, 11, 16, 32, 64, 128, 256, 512, *(2.0**k for k in range(10, 41))])
EDGES = {
    "document_bytes": LENGTHS,
    "document_characters": LENGTHS,
    "line_characters": LENGTHS,
    "language_score": SCORES,
    "clusters": CLUSTERS,
}
MOST_COUNTED = 10_000  # different names, so that memory stays bounded
SHOWN_ORIGINS, SHOWN_KINDS, SHOWN_CLUSTERS = 20, 20, 10
SUMS = ("documents", "valid", "bytes", "characters", "lines")


def binned(values: Any, edges: np.ndarray) -> np.ndarray:
    """Counts per bin: ``[len(edges)]`` int64, the last bin open; values below the first edge go to it."""
    places = np.searchsorted(edges, np.asarray(values, dtype=np.float64), side="right") - 1
    return np.bincount(np.maximum(places, 0), minlength=len(edges)).astype(np.int64)


def shown(counts: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """A histogram as its JSON form, without the empty bins at both ends."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return {"edges": [], "counts": []}
    first, last = int(filled[0]), int(filled[-1])
    ends = [*edges.tolist(), float(edges[-1]) * 2]
    return {"edges": [plain(e) for e in ends[first : last + 2]], "counts": counts[first : last + 1].tolist()}


def plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)


@dataclass
class RuleCount:
    """What one rule rejected."""

    documents: int = 0
    bytes: int = 0
    values: np.ndarray = field(default_factory=lambda: np.zeros(len(VALUES), dtype=np.int64))
    kinds: Counter[str] = field(default_factory=Counter)

    def merge(self, other: "RuleCount") -> None:
        self.documents += other.documents
        self.bytes += other.bytes
        self.values += other.values
        self.kinds.update(other.kinds)
        prune(self.kinds)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"documents": self.documents, "bytes": self.bytes}
        if self.values.any():
            found["values"] = shown(self.values, VALUES)
        if self.kinds:
            found["kinds"] = dict(most(self.kinds, SHOWN_KINDS))
        return found


@dataclass
class Statistics:
    """Counts of some documents and rejects; two of them add up with ``merge``."""

    sums: Counter[str] = field(default_factory=Counter)
    language: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(len(edges), dtype=np.int64) for name, edges in EDGES.items()}
    )
    origin_documents: Counter[str] = field(default_factory=Counter)
    origin_bytes: Counter[str] = field(default_factory=Counter)
    largest: list[dict[str, Any]] = field(default_factory=list)
    rejected: dict[str, RuleCount] = field(default_factory=lambda: defaultdict(RuleCount))

    def add_documents(self, table: pa.Table, sizes: dict[str, int]) -> None:
        """Count kept documents.

        Args:
            table: rows in the form of documents.
            sizes: id -> documents that were dropped as its duplicates.
        """
        texts = table["text"].to_pylist()
        lengths = pc.binary_length(table["text"]).to_numpy()
        characters = pc.utf8_length(table["text"]).to_numpy()
        lines = [len(line) for text in texts for line in text.splitlines()]
        self.sums.update(
            documents=len(texts),
            valid=pc.sum(pc.equal(table["split"], "valid")).as_py() or 0,
            bytes=int(lengths.sum()),
            characters=int(characters.sum()),
            lines=len(lines),
        )
        self.language.update(table["language"].to_pylist())
        scores = [
            json.loads(text)["language_score"]
            for text in table["decisions"].to_pylist()
            if '"language_score"' in text
        ]
        for name, values in (
            ("document_bytes", lengths),
            ("document_characters", characters),
            ("line_characters", lines),
            ("language_score", scores),
        ):
            self.histograms[name] += binned(values, EDGES[name])
        for origin, size in zip(table["origin"].to_pylist(), lengths.tolist()):
            place = group_of(origin)
            self.origin_documents[place] += 1
            self.origin_bytes[place] += size
        self.prune_origins()
        clusters = [
            {"survivor": name, "source": source, "origin": origin, "size": sizes[name] + 1}
            for name, source, origin in zip(*(table[c].to_pylist() for c in ("id", "source", "origin")))
            if name in sizes
        ]
        self.histograms["clusters"] += binned([entry["size"] for entry in clusters], CLUSTERS)
        self.largest = largest_of([*self.largest, *clusters])

    def add_rejects(self, table: pa.Table, duplicate_rules: Iterable[str]) -> None:
        """Count rejects; the values of ``duplicate_rules`` are ids, which are not counted."""
        ids = set(duplicate_rules)
        lengths = pc.binary_length(table["text"]).to_pylist()
        values: dict[str, list[float]] = defaultdict(list)
        for rule, value, size in zip(table["rule"].to_pylist(), table["value"].to_pylist(), lengths):
            count = self.rejected[rule]
            count.documents += 1
            count.bytes += size
            if rule in ids or not value.strip():
                continue
            try:
                values[rule].append(float(value))
            except ValueError:
                count.kinds[value.split()[0]] += 1
        for rule, numbers in values.items():
            self.rejected[rule].values += binned(numbers, VALUES)
        for count in self.rejected.values():
            prune(count.kinds)

    def merge(self, other: "Statistics") -> None:
        self.sums.update(other.sums)
        self.language.update(other.language)
        for name in EDGES:
            self.histograms[name] += other.histograms[name]
        self.origin_documents.update(other.origin_documents)
        self.origin_bytes.update(other.origin_bytes)
        self.prune_origins()
        self.largest = largest_of([*self.largest, *other.largest])
        for rule, count in other.rejected.items():
            self.rejected[rule].merge(count)

    def prune_origins(self) -> None:
        prune(self.origin_bytes)
        for name in self.origin_documents.keys() - self.origin_bytes.keys():
            del self.origin_documents[name]

    def to_json(self) -> dict[str, Any]:
        """An ENTRY of ``statistics.json``."""
        top = most(self.origin_bytes, SHOWN_ORIGINS)
        places = {place for place, _ in top}
        rest = [place for place in self.origin_bytes if place not in places]
        return {
            **{name: self.sums[name] for name in SUMS},
            "language": dict(sorted(self.language.items())),
            **{
                name: shown(self.histograms[name], EDGES[name])
                for name in ("document_bytes", "document_characters", "line_characters", "language_score")
            },
            "origins": [
                {"origin": place, "documents": self.origin_documents[place], "bytes": size}
                for place, size in top
            ],
            "other_origins": {
                "origins": len(rest),
                "documents": sum(self.origin_documents[place] for place in rest),
                "bytes": sum(self.origin_bytes[place] for place in rest),
            },
            "clusters": {
                "sizes": shown(self.histograms["clusters"], CLUSTERS),
                "largest": self.largest,
            },
            "rejected": {rule: count.to_json() for rule, count in sorted(self.rejected.items())},
        }

    def save(self, path: Path) -> None:
        """Write the counts whole, for ``load``; atomically."""
        write_json(
            path,
            {
                "sums": self.sums,
                "language": self.language,
                "histograms": {name: counts.tolist() for name, counts in self.histograms.items()},
                "origin_documents": self.origin_documents,
                "origin_bytes": self.origin_bytes,
                "largest": self.largest,
                "rejected": {
                    rule: {**vars(count), "values": count.values.tolist()}
                    for rule, count in self.rejected.items()
                },
            },
        )

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        value = json.loads(path.read_text(encoding="utf-8"))
        made = cls(
            *(Counter(value[name]) for name in ("sums", "language")),
            {name: np.array(counts, dtype=np.int64) for name, counts in value["histograms"].items()},
            *(Counter(value[name]) for name in ("origin_documents", "origin_bytes")),
            value["largest"],
        )
        for rule, count in value["rejected"].items():
            made.rejected[rule] = RuleCount(
                count["documents"],
                count["bytes"],
                np.array(count["values"], dtype=np.int64),
                Counter(count["kinds"]),
            )
        return made


def group_of(origin: str) -> str:
    """Where a document comes from, in the words of a person: host, package, archive or folder.

    ``https://host/page`` -> ``host``; ``archive.whl!folder/file#row`` -> ``archive.whl!folder``;
    ``file:///data/en/a.jsonl#3`` -> ``/data/en``; ``s3://bucket/path/file`` -> ``s3://bucket/path``.
    """
    where, _, row = origin.partition("#")
    if row.startswith(("http://", "https://")):  # a page in a crawl's archive
        where = row
    if "!" in where:
        archive, _, member = where.partition("!")
        top, inside, _ = member.partition("/")
        return f"{archive}!{top}" if inside else archive
    if "://" not in where:
        return where
    parts = urlsplit(where)
    if parts.scheme in ("http", "https"):
        return parts.hostname or where
    folder = str(PurePosixPath(parts.path).parent)
    return folder if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc}{folder}".rstrip("/")


def most(counter: Counter[str], number: int) -> list[tuple[str, int]]:
    """The most frequent, names in order where counts are equal."""
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))[:number]


def prune(counter: Counter[str]) -> None:
    """Keep memory bounded where there are very many names."""
    if len(counter) > MOST_COUNTED:
        kept = dict(most(counter, MOST_COUNTED))
        counter.clear()
        counter.update(kept)


def largest_of(clusters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(clusters, key=lambda entry: (-entry["size"], entry["survivor"]))[:SHOWN_CLUSTERS]


def summarise(counts: dict[str, Statistics], about: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole ``statistics.json``.

    Args:
        counts: of every source that was read.
        about: the entries of ``sources.json``, for domain and licence.
    """
    described = {entry["id"]: entry for entry in about}
    domains: dict[str, Statistics] = defaultdict(Statistics)
    total = Statistics()
    for name, count in sorted(counts.items()):
        domains[described[name]["domain"]].merge(count)
        total.merge(count)
    return {
        "schema": SCHEMA,
        "sources": {
            name: {
                "domain": described[name]["domain"],
                "licence": described[name]["licence"],
                "inherited": bool(described[name].get("inherited")),
                **count.to_json(),
            }
            for name, count in sorted(counts.items())
        },
        "domains": {name: {"domain": name, **count.to_json()} for name, count in sorted(domains.items())},
        "total": total.to_json(),
    }
