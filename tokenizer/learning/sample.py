"""Which documents a vocabulary is learned from: a seeded sample of each domain, up to its share of bytes.

A conversation (a row with ``messages``) counts as the text the chat template makes of it, since that is what
the model reads. Special tokens are cut out of every document: no learned entry may spell one, nor cross one.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from stemma.core.errors import DamagedError
from tokenizer.chat import render_text
from tokenizer.config import TokenizerConfig
from tokenizer.errors import TextError, VocabularyError
from tokenizer.specials import NAMED

COLUMNS = ("id", "text", "domain", "language", "split")
Written = TypeVar("Written")
_SPECIAL = re.compile("|".join(map(re.escape, NAMED)))


@dataclass(frozen=True)
class Document:
    """One document of an artifact.

    Attributes:
        messages: JSON of ``{"messages": .., "tools": ..}`` if it is a conversation, which then takes
            precedence over ``text``; else "".
    """

    id: str
    text: str
    domain: str
    language: str
    messages: str = ""

    def conversation(self, write: Callable[[Any, Any], Written]) -> Written:
        """What ``write`` makes of the messages and tools of a conversation.

        Raises:
            TextError: ``messages`` is not the JSON it should be, or ``write`` refuses it; names the document.
        """
        try:
            found = json.loads(self.messages)
            return write(found["messages"], found.get("tools"))
        except (ValueError, KeyError, TypeError, AttributeError, TextError) as error:
            raise TextError(
                f"document {self.id}: its messages cannot be rendered; expected JSON of an object with "
                f"messages and tools, found {self.messages[:60]!r} ({error})"
            ) from error

    def pieces(self) -> list[str]:
        """The text to learn from, cut at special tokens and without them.

        Raises:
            TextError: a conversation is not what the chat template takes; names the document.
        """
        # A tool description counts in every conversation that has it, as often as the model will read it.
        # Its words are few, so they take few entries from others; counted once per list of tools they would
        # stay too rare to be merged, though they are most of a short prompt (by measure, 13% more
        # tokens in a prompt with one tool, for under 0.5% fewer in plain text).
        text = self.conversation(render_text) if self.messages else self.text
        return [piece for piece in _SPECIAL.split(text) if piece]


@dataclass(frozen=True)
class Sample:
    """The ids chosen, and how many bytes of each domain they hold and the artifacts have."""

    ids: frozenset[str]
    sampled_bytes: dict[str, int]
    available_bytes: dict[str, int]


def read_documents(folders: Sequence[Path], split: str) -> Iterator[Document]:
    """Yield a split's documents, artifact after artifact, each in the order of its files.

    Raises:
        DamagedError: a file is no Parquet file or lacks a column.
    """
    for path in (path for folder in folders for path in sorted((folder / "documents").glob("*/*.parquet"))):
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if missing := [name for name in COLUMNS if name not in names]:
                    raise DamagedError(
                        f"{path} has no column {missing}; it is no documents file of an artifact"
                    )
                columns = [*COLUMNS, *(["messages"] if "messages" in names else [])]
                for batch in file.iter_batches(batch_size=256, columns=columns):
                    for row in batch.to_pylist():
                        if row.pop("split") == split:
                            yield Document(**{**row, "messages": row.get("messages") or ""})
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error


def choose(folders: Sequence[Path], config: TokenizerConfig) -> Sample:
    """Choose training documents: each domain's in a seeded order, until its share is full.

    The shares of domains that the artifacts lack go to the others. A domain below its share gives all it has.

    Raises:
        VocabularyError: there is no training text in any domain with a weight.
        TextError: a conversation cannot be rendered.
    """
    sizes: dict[str, list[tuple[bytes, str, int]]] = {}
    for document in read_documents(folders, "train"):
        key = hashlib.sha256(f"{config.seed}:{document.id}".encode()).digest()
        size = sum(len(piece.encode()) for piece in document.pieces())
        sizes.setdefault(document.domain, []).append((key, document.id, size))
    weights = {domain: config.domain_weights.get(domain, 0.0) for domain in sizes}
    whole = sum(weights.values())
    if not whole or not any(size for rows in sizes.values() for _, _, size in rows):
        raise VocabularyError(
            f"{' and '.join(map(str, folders))}: no training text to learn from: tokenizer.domain_weights "
            f"names {', '.join(sorted(config.domain_weights))}; the corpus has "
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
