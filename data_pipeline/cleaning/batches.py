"""A filter that judges many documents at once, so that numpy works on long arrays instead of short ones."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.typeshelper import StatHints

from data_pipeline.cleaning.words import Analysis, Ints, Lexicon, lexicon

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 1_000_000  # a batch ends after the document that reaches this


@dataclass(frozen=True)
class Verdict:
    """Why a document is dropped: the rule it breaks, and the value it breaks it with."""

    rule: str
    value: float | int | str


class BatchFilter(BaseFilter):
    """A datatrove filter whose ``judge`` sees a batch of documents."""

    def __init__(self, language: str, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self.language = language

    @abstractmethod
    def judge(self, documents: list[Document], words: Lexicon) -> list[Verdict | None]:
        """For each document why it is dropped, or None. May rewrite the texts of those that stay."""

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        (result,) = self.filter_batch([doc])
        return result

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        results: list[bool | tuple[bool, str]] = []
        for document, verdict in zip(batch, self.judge(batch, lexicon(self.language))):
            if verdict is not None:
                value = verdict.value
                document.metadata["value"] = round(value, 4) if isinstance(value, float) else value
            results.append(verdict is None or (False, verdict.rule))
        return results

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """As ``BaseFilter.run``, with batches bounded by characters too."""
        with self.exclusion_writer or contextlib.nullcontext() as writer:
            for batch in batches(data):
                with self.track_time("batch"):
                    results = self.filter_batch(batch)
                for document, result in zip(batch, results):
                    self.stat_update(StatHints.total)
                    if result is True:
                        self.stat_update(StatHints.forwarded)
                        self.update_doc_stats(document)
                        yield document
                        continue
                    _, rule = result
                    self.stat_update(StatHints.dropped, f"dropped_{rule}")
                    if writer:
                        document.metadata["filter_reason"] = rule
                        writer.write(document, rank)


def batches(documents: Any) -> Iterator[list[Document]]:
    """Documents in lists of at most ``BATCH_DOCUMENTS``, and of about ``BATCH_CHARACTERS``."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class Stream:
    """The words of several texts in one array.

    Attributes:
        words: numbers of the words; int32 [words].
        text: which text each word belongs to; int32 [words].
        starts: first word of each text, and the end of the last; int64 [texts + 1].
    """

    words: Ints
    text: Ints
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, analyses: list[Analysis]) -> "Stream":
        counts = [len(analysis.words) for analysis in analyses]
        words = (
            np.concatenate([analysis.words for analysis in analyses]) if analyses else np.zeros(0, np.int32)
        )
        text = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return cls(words, text, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    def total(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Sum of integers per word over each text; int64 [texts]."""
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return sums[self.starts[1:]] - sums[self.starts[:-1]]
