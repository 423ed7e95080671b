"""Which documents a vocabulary is learned from: of every source all, or a seeded sample.

A conversation (a row with ``messages``) counts as the text the chat template makes of it, since that is what
the model reads. Special tokens are cut out of every document: no learned entry may spell one, nor cross one.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stemma.core.errors import DamagedError
from tokenizer.chat import render_text
from tokenizer.config import TokenizerConfig
from tokenizer.errors import TextError, VocabularyError
from tokenizer.specials import NAMED

COLUMNS = ("id", "text", "domain", "language", "split")
LAST_KEY = "f" * 16  # no document has a later one
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
class Part:
    """The training documents of one source, domain and language: what is counted together.

    Attributes:
        documents: how many there are.
        available_bytes: UTF-8 bytes of their texts, or of the JSON of their conversations.
        sampled_bytes: the same of those that are chosen.
        threshold: a document is chosen if its ``key`` is at most this; "" chooses all.
    """

    source: str
    domain: str
    language: str
    documents: int
    available_bytes: int
    sampled_bytes: int
    threshold: str = ""

    @property
    def name(self) -> str:
        """Unique among the parts of a sample, and good as a file name."""
        return f"{self.source}.{self.domain}.{self.language}"

    def has(self, source: str, document: Document, seed: int) -> bool:
        """Whether a document of a source is one of those chosen."""
        mine = (source, document.domain, document.language) == (self.source, self.domain, self.language)
        return mine and (not self.threshold or key(document.id, seed) <= self.threshold)


def key(identifier: str, seed: int) -> str:
    """A document's place in the seeded order, 16 hex digits."""
    return hashlib.sha256(f"{seed}:{identifier}".encode()).hexdigest()[: len(LAST_KEY)]


def survey(folders: Sequence[Path], config: TokenizerConfig) -> list[Part]:
    """Choose training documents: of each part in a seeded order, until ``config.source_bytes`` are reached.

    Sources in ``config.held_out`` are left out.

    Returns:
        Parts with text in them, sorted by source, domain and language.

    Raises:
        DamagedError: a file is no documents file.
        VocabularyError: ``held_out`` names a source that is not there.
    """
    # keys and sizes, 16 bytes a document
    found: dict[tuple[str, str, str], tuple[array[int], array[int]]] = {}
    sources: set[str] = set()
    for path in document_files(folders):
        source = path.parent.name
        sources.add(source)
        if source in config.held_out:
            continue
        for batch in read_batches(path, COLUMNS, ("messages",)):
            columns = (batch[name].to_pylist() for name in ("split", "domain", "language", "id"))
            for split, domain, language, identifier, size in zip(*columns, row_sizes(batch), strict=True):
                if split == "train" and size:
                    group = found.setdefault((source, domain, language), (array("Q"), array("Q")))
                    group[0].append(int(key(identifier, config.seed), 16))
                    group[1].append(size)
    if unknown := sorted(set(config.held_out) - sources):
        raise VocabularyError(
            f"tokenizer.held_out names {', '.join(unknown)}; the sources are {', '.join(sorted(sources))}"
        )
    parts = []
    for group, (keys, sizes) in sorted(found.items()):
        threshold, sampled = last_key(keys, sizes, config.source_bytes)
        parts.append(Part(*group, len(keys), sum(sizes), sampled, threshold))
    return parts


def last_key(keys: "array[int]", sizes: "array[int]", limit: int) -> tuple[str, int]:
    """The key of the document that reaches ``limit`` bytes in the seeded order, and the bytes up to it.

    "" and all the bytes where they are no more than the limit.
    """
    if (total := sum(sizes)) <= limit:
        return "", total
    order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable")
    sums = np.cumsum(np.frombuffer(sizes, np.uint64)[order])
    last = int(np.searchsorted(sums, np.uint64(limit)))  # the first to reach it
    return f"{keys[order[last]]:016x}", int(sums[last])


def row_sizes(batch: pa.RecordBatch) -> list[int]:
    """UTF-8 bytes of each row's text, or of its messages where it is a conversation."""
    sizes = pc.fill_null(pc.binary_length(batch["text"]), 0)
    if "messages" in batch.schema.names:
        messages = pc.fill_null(pc.binary_length(batch["messages"].cast(pa.large_binary())), 0)
        sizes = pc.if_else(pc.greater(messages, 0), messages, sizes)
    return list(sizes.to_pylist())


def document_files(folders: Sequence[Path]) -> list[Path]:
    """The documents files of artifacts, ``documents/<source>/*.parquet``, in order."""
    return [path for folder in folders for path in sorted((folder / "documents").glob("*/*.parquet"))]


def read_batches(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a documents file, or of some of its row groups, a few at a time.

    Raises:
        DamagedError: it is no Parquet file or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in columns if name not in names]:
                raise DamagedError(f"{path} has no column {missing}; it is no documents file of an artifact")
            present = [*columns, *(name for name in optional if name in names)]
            # One thread: the readers are many already, and each thread of Arrow's keeps memory of its own.
            yield from file.iter_batches(256, row_groups, present, use_threads=False)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error


def read_file(path: Path, split: str, row_groups: Sequence[int] | None = None) -> Iterator[Document]:
    """Yield a split's documents of one file, or of some of its row groups, in its order.

    Raises:
        DamagedError: the file is no Parquet file or lacks a column.
    """
    for batch in read_batches(path, COLUMNS, ("messages",), row_groups):
        for row in batch.to_pylist():
            if row.pop("split") == split:
                yield Document(**{**row, "messages": row.get("messages") or ""})


def read_documents(folders: Sequence[Path], split: str) -> Iterator[Document]:
    """Yield a split's documents, artifact after artifact, each in the order of its files.

    Raises:
        DamagedError: a file is no Parquet file or lacks a column.
    """
    for path in document_files(folders):
        yield from read_file(path, split)
