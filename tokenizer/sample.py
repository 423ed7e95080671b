"""Which documents a vocabulary is learned from: a seeded sample of each domain, up to its share of bytes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from stemma.core.errors import DamagedError
from tokenizer.config import TokenizerConfig
from tokenizer.errors import VocabularyError

COLUMNS = ("id", "text", "domain", "language", "split")


@dataclass(frozen=True)
class Document:
    """One document of a corpus artifact."""

    id: str
    text: str
    domain: str
    language: str


@dataclass(frozen=True)
class Sample:
    """The ids chosen, and how many bytes of each domain they hold and the corpus has."""

    ids: frozenset[str]
    sampled_bytes: dict[str, int]
    available_bytes: dict[str, int]


def read_documents(corpus: Path, split: str) -> Iterator[Document]:
    """Yield a split's documents in the order of their files.

    Raises:
        DamagedError: a file is no Parquet file or lacks a column.
    """
    for path in sorted((corpus / "documents").glob("*/*.parquet")):
        try:
            with pq.ParquetFile(path) as file:
                if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
                    raise DamagedError(f"{path} has no column {missing}; it is no file of a corpus artifact")
                for batch in file.iter_batches(batch_size=256, columns=list(COLUMNS)):
                    for row in batch.to_pylist():
                        if row["split"] == split:
                            yield Document(row["id"], row["text"], row["domain"], row["language"])
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error


def choose(corpus: Path, config: TokenizerConfig) -> Sample:
    """Choose training documents: each domain's in a seeded order, until its share is full.

    The shares of domains that the corpus lacks go to the others. A domain below its share gives all it has.

    Raises:
        VocabularyError: the corpus has no training text in any domain with a weight.
    """
    sizes: dict[str, list[tuple[bytes, str, int]]] = {}
    for document in read_documents(corpus, "train"):
        key = hashlib.sha256(f"{config.seed}:{document.id}".encode()).digest()
        sizes.setdefault(document.domain, []).append((key, document.id, len(document.text.encode())))
    weights = {domain: config.domain_weights.get(domain, 0.0) for domain in sizes}
    whole = sum(weights.values())
    if not whole or not any(size for rows in sizes.values() for _, _, size in rows):
        raise VocabularyError(
            f"{corpus} has no training text to learn from: tokenizer.domain_weights names "
            f"{', '.join(sorted(config.domain_weights))}; the corpus has "
            f"{', '.join(sorted(sizes)) or 'no documents'}"
        )
    chosen: set[str] = set()
    sampled: dict[str, int] = {}
    for domain, rows in sorted(sizes.items()):
        budget = config.sample_bytes * weights[domain] / whole
        sampled[domain] = 0
        for _, identifier, size in sorted(rows):
            if sampled[domain] >= budget:
                break
            chosen.add(identifier)
            sampled[domain] += size
    available = {domain: sum(size for _, _, size in rows) for domain, rows in sorted(sizes.items())}
    return Sample(frozenset(chosen), sampled, available)
