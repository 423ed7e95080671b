"""Which documents are labelled: a draw spread evenly over source, domain and length, the same for a seed."""

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.quality.labels import Document
from stemma.core.errors import DamagedError

LENGTHS = (1_000, 4_000, 16_000)  # bytes between the classes of length
_BATCH = 1024  # documents read at a time


@dataclass(frozen=True)
class Drawn:
    """A document drawn for labelling."""

    document: Document
    text: str


def document_files(corpus: Path) -> list[Path]:
    """The documents files of a corpus artifact, in order."""
    return sorted((corpus / "documents").glob("*/*.parquet"))


def batches(path: Path, columns: list[str], rows: int = _BATCH) -> Iterator[pa.RecordBatch]:
    """Rows of a documents file, some at a time.

    Raises:
        DamagedError: it is not readable Parquet, or lacks a column.
    """
    try:
        yield from pq.ParquetFile(path).iter_batches(rows, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error


def documents(corpus: Path) -> Iterator[Document]:
    """Every document of a corpus, without its text."""
    for path in document_files(corpus):
        for batch in batches(path, ["id", "source", "origin", "cluster"]):
            columns = (batch[name].to_pylist() for name in ("id", "source", "origin", "cluster"))
            yield from map(Document, *columns)


def draw(corpus: Path, count: int, seed: int, skip: frozenset[str] = frozenset()) -> list[Drawn]:
    """Draw documents of the training split, spread evenly over (source, domain, class of length).

    A stratum that has fewer than its share gives all it has, and the others share the rest. Within a stratum
    those with the smallest hash of seed and id are taken, so a larger draw contains a smaller one of the same
    shares, and memory holds no more than ``count`` ids per stratum.

    Args:
        corpus: folder of the artifact.
        count: documents wanted.
        seed: of the hashes.
        skip: ids not to draw, such as those labelled already.

    Returns:
        ordered by id.
    """
    strata: dict[tuple[str, str, int], list[tuple[int, str]]] = {}
    columns = ["id", "source", "domain", "split", "text"]
    for path in document_files(corpus):
        for batch in batches(path, columns):
            sizes = pc.binary_length(batch["text"]).to_pylist()
            rows = zip(*(batch[name].to_pylist() for name in columns[:-1]), sizes)
            for identifier, source, domain, split, size in rows:
                if split != "train" or identifier in skip:
                    continue
                heap = strata.setdefault((source, domain, sum(size >= bound for bound in LENGTHS)), [])
                entry = (-_order(identifier, seed), identifier)
                if len(heap) < count:
                    heapq.heappush(heap, entry)
                elif entry > heap[0]:
                    heapq.heapreplace(heap, entry)
    chosen = {
        identifier
        for stratum, share in _shares({key: len(heap) for key, heap in strata.items()}, count).items()
        for _, identifier in sorted(strata[stratum], reverse=True)[:share]
    }
    return fetch(corpus, chosen)


def _order(identifier: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{identifier}".encode()).digest()[:8])


def _shares(sizes: dict[tuple[str, str, int], int], count: int) -> dict[tuple[str, str, int], int]:
    """Split ``count`` evenly among strata of these sizes, smallest first so that what one lacks moves on."""
    shares = {}
    left = min(count, sum(sizes.values()))
    ordered = sorted(sizes, key=lambda key: (sizes[key], key))
    for index, key in enumerate(ordered):
        shares[key] = min(sizes[key], left // (len(ordered) - index))
        left -= shares[key]
    return shares


def fetch(corpus: Path, ids: set[str]) -> list[Drawn]:
    """Documents of a corpus with their texts, ordered by id."""
    wanted = pa.array(sorted(ids), pa.string())
    found: list[Drawn] = []
    columns = ["id", "source", "origin", "cluster", "text"]
    for path in document_files(corpus):
        for batch in batches(path, columns):
            rows = batch.filter(pc.is_in(batch["id"], wanted))
            for *facts, text in zip(*(rows[name].to_pylist() for name in columns)):
                found.append(Drawn(Document(*facts), text))
    return sorted(found, key=lambda drawn: drawn.document.id)


def excerpt(text: str, limit: int) -> str:
    """What an annotator is shown of a text: all of it, or its beginning (60 %), a piece from the middle and
    its end (20 % each), cut between words where there are any, with ``[...]`` between.

    Args:
        text: of any length.
        limit: characters, the marks not counted.
    """
    if len(text) <= limit:
        return text
    begin, part, middle = limit * 3 // 5, limit // 5, len(text) // 2
    head = text[:begin].rsplit(None, 1)[0] if " " in text[:begin] else text[:begin]
    pieces = (head, text[middle : middle + part].strip(), text[-part:].strip())
    return "\n[...]\n".join(pieces)
