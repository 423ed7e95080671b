"""A first look at sources before a corpus is made of them: how much there is, what filters would keep, how
it reads. Everything here is an estimate, from what could be read in some seconds.
"""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.data import Document

from data_pipeline.config import CorpusConfig
from data_pipeline.config.sources import SourceBase, used_for
from data_pipeline.corpus.resolve import look_at_all
from data_pipeline.sources.documents import document_id, parts, storable, verdict
from data_pipeline.sources.find import Found
from data_pipeline.sources.item import Item
from data_pipeline.sources.read import origin_of, read
from data_pipeline.sources.units import units
from stemma.core.artifact import Artifact
from stemma.core.files import read_json

TURN = 0.25  # seconds that a source is read before it is the next one's turn
TRIED = 40  # documents of a source that go through its filters
MAX_CHARACTERS = 100_000  # of each of them
BYTES_PER_TOKEN = 4.0  # of text that is no digit; digits are tokens of their own


@dataclass(frozen=True)
class Sample:
    """A document that the filters kept, as they left it."""

    id: str
    origin: str
    text: str


@dataclass(frozen=True)
class Glance:
    """What a source seems to have.

    Attributes:
        name, domain: the source.
        documents, bytes: read so far, before filters; UTF-8 bytes.
        read: share of the source's files that was read.
        kept: share of the tried documents' bytes that the filters keep.
        tried: documents that went through the filters.
        rejects: of those, by rule.
        bytes_per_token: estimated.
        samples: some that were kept.
        problem: why there is nothing; "" if there is something.
    """

    name: str
    domain: str
    documents: int = 0
    bytes: int = 0
    read: float = 0.0
    kept: float = 1.0
    tried: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    bytes_per_token: float = BYTES_PER_TOKEN
    samples: tuple[Sample, ...] = ()
    problem: str = ""

    @property
    def tokens(self) -> int:
        """Tokens it would give, before duplicates are removed."""
        return round(self.bytes / self.read * self.kept / self.bytes_per_token) if self.read else 0


class _Reading:
    """A source that is read a little at a time, keeping some documents at random."""

    def __init__(self, name: str, source: SourceBase, found: Found, seed: int) -> None:
        self.name, self.source, self.found = name, source, found
        self.random = random.Random(f"{seed} {name}")
        self.documents = self.bytes = self.raw = 0
        self.done = False
        self.problem = ""
        self.chosen: list[tuple[str, Item]] = []
        self.items = self._items()

    def _items(self) -> Iterator[tuple[str, Item]]:
        for unit in units(self.name, self.source, self.found):
            sizes = {
                origin_of(self.source, unit, piece): (piece.stop - piece.start if piece.stop else piece.size)
                for piece in unit.pieces
            }
            behind, total = 0, sum(sizes.values())
            latest = ""
            for origin, item in read(self.source, unit):
                file = origin.rpartition("#")[0]
                if file != latest:
                    done, latest = sizes.pop(latest, 0), file
                    behind, self.raw = behind + done, self.raw + done
                yield origin, item
            self.raw += total - behind

    def go_on(self, seconds: float) -> None:
        """Read for some seconds, or to the end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                origin, item = next(self.items)
            except StopIteration:
                self.done = True
                return
            self.documents += 1
            self.bytes += len(item.text.encode("utf-8", "replace"))
            if len(self.chosen) < TRIED:
                self.chosen.append((origin, item))
            elif (at := self.random.randrange(self.documents)) < TRIED:
                self.chosen[at] = (origin, item)

    @property
    def share(self) -> float:
        """Of the files' bytes, how much was read; where not one file was finished, by the text it gave."""
        total = sum(self.found.files.values())
        if self.done or not total:
            return 1.0
        return min(1.0, max(self.raw, 0 if self.raw else self.bytes) / total)


def look_at_sources(
    config: CorpusConfig, cache: Path, offline: bool, seconds: float, seed: int = 0
) -> dict[str, Glance]:
    """Read some of every training source, each in turn, and try its filters on what was read.

    Args:
        config: sources and filters.
        cache: where archives are kept; what is not there is fetched.
        offline: fetch nothing.
        seconds: for reading, and half as many for filters; every source gets a little even so.
        seed: of the documents that are tried.

    Returns:
        By source; one that cannot be had says why.

    Raises:
        DamagedError, PackageError, SourceError: a source is not what the profile says.
    """
    sources = used_for(config.sources, "train")
    found, skipped = look_at_all(sources, cache, offline)
    readings = [_Reading(name, sources[name], what, seed) for name, what in found.items()]
    deadline, waiting = time.monotonic() + seconds, list(readings)
    while waiting:
        for reading in waiting:
            if not reading.documents or time.monotonic() < deadline:
                reading.go_on(TURN)
        waiting = [reading for reading in waiting if not reading.done and time.monotonic() < deadline]
    made = {name: Glance(name, sources[name].domain, problem=why) for name, why in skipped.items()}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stemma-glance-") as scratch:
        for at, reading in enumerate(readings):
            share = seconds / 2 / len(readings) * (at + 1)
            made[reading.name] = _tried(reading, config, Path(scratch), begun + share)
    return {name: made[name] for name in sorted(made)}


def glance_at(corpus: Artifact, count: int = TRIED) -> dict[str, Glance]:
    """What a corpus, or trajectories, hold: documents and bytes as they are, tokens estimated.

    Args:
        corpus: an artifact with ``documents/<source>/``.
        count: documents of each source that are read, for samples and for digits.
    """
    found = {}
    for folder in sorted((corpus.path / "documents").iterdir()):
        files = [pq.ParquetFile(path) for path in sorted(folder.glob("*.parquet"))]
        text = "messages" if "messages" in files[0].schema_arrow.names else "text"
        batch = next(files[0].iter_batches(count, columns=["id", "origin", "domain", text]), None)
        rows = batch.to_pylist() if batch is not None else []
        documents = sum(file.metadata.num_rows for file in files)
        some = sum(len(row[text].encode()) for row in rows)
        digits = sum(character.isdigit() for row in rows for character in row[text])
        sizes = _text_bytes(corpus, folder.name)
        found[folder.name] = Glance(
            folder.name,
            rows[0]["domain"] if rows else "",
            documents,
            sizes if sizes is not None else round(some * documents / max(len(rows), 1)),
            1.0,
            1.0,
            len(rows),
            {},
            some / (digits + (some - digits) / BYTES_PER_TOKEN) if some else BYTES_PER_TOKEN,
            tuple(Sample(row["id"], row["origin"], row[text]) for row in rows),
            "" if rows else "it holds no document",
        )
    return found


def _text_bytes(corpus: Artifact, source: str) -> int | None:
    """Bytes of a source's documents, where the artifact counts them."""
    if "funnel.json" in corpus.manifest["files"]:
        return int(read_json(corpus.file("funnel.json"))["sources"][source]["steps"][-1]["bytes"])
    families = corpus.summary.get("families", {})
    return int(families[source]["bytes"]) if source in families else None


def _tried(reading: _Reading, config: CorpusConfig, scratch: Path, deadline: float) -> Glance:
    """Pass the chosen documents of a source through its filters, as many as there is time for."""
    from data_pipeline.cleaning.chain import build_chain

    source, rejects = reading.source, Counter[str]()
    documents: list[Document] = []
    sizes: list[int] = []

    def chosen() -> Iterator[Document]:
        for origin, item in reading.chosen:
            if documents and time.monotonic() > deadline:
                return
            text, changes = storable(item.text)
            rule, _ = verdict(item, text, changes)
            if rule:
                rejects[rule] += 1
                continue
            text = parts(text, config.max_document_bytes)[0][:MAX_CHARACTERS]
            metadata = {
                **item.metadata,
                "source": reading.name,
                "domain": source.domain,
                "language": source.language,
                "licence": source.licence,
                "origin": origin,
                "whole": origin,
                "about": dict(item.metadata),
            }
            documents.append(Document(text, document_id(reading.name, origin, text), metadata=metadata))
            sizes.append(len(text.encode()))
            yield documents[-1]

    passing = chosen()
    for step in build_chain(
        config.filters[source.filters], source.language, scratch / reading.name, scratch / "tallies"
    ):
        passing = step.run(passing)
    kept = [document for document in passing if document.text.strip()]
    left, before, tried = {id(document) for document in kept}, sum(sizes), len(documents) + rejects.total()
    rejects.update(
        str(document.metadata.get("filter_reason", "nothing_left"))
        for document in documents
        if id(document) not in left
    )
    texts = [document.text for document in kept]
    after = sum(len(text.encode()) for text in texts)
    digits = sum(character.isdigit() for text in texts for character in text)
    tokens = digits + (after - digits) / BYTES_PER_TOKEN
    return Glance(
        reading.name,
        source.domain,
        reading.documents,
        reading.bytes,
        reading.share,
        after / before if before else 0.0,
        tried,
        dict(rejects.most_common()),
        after / tokens if tokens else BYTES_PER_TOKEN,
        tuple(Sample(item.id, item.metadata["origin"], item.text) for item in kept),
        "" if kept else "nothing that was read passed the filters",
    )
