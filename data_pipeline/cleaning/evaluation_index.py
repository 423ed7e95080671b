"""The n-grams of evaluation sets in one file that workers map: built once, looked up by the hundred million.

    index = build(triples, config)     # see evaluation_build
    index.save(path); load(path)       # the same bytes for the same triples, in whatever order they came
    index.overlaps(text)               # what a text shares with them, verified word by word

An n-gram that many items of a source share is template: a prompt, a licence text. One of numbers, or of the
same word over and over, is anybody's. A text that has only such n-grams of an item shares nothing with it,
unless it holds nearly all of the item: a passage that many questions are about, say.

The file is in safetensors format (named arrays, and JSON under ``__metadata__``), written atomically.
"""

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from data_pipeline.cleaning import ngrams
from data_pipeline.config.decontamination import DecontaminationConfig
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import write_atomic

FORMAT = 1
TEMPLATE_SHARE = 0.8  # n-grams of many items count only in a text that holds so much of one item: a passage


class IndexMismatch(StemmaError):
    """An index was built with other settings than it is used with."""


class Item(NamedTuple):
    """One question of an evaluation set."""

    source: str
    name: str
    text: str


class Overlap(NamedTuple):
    """Consecutive n-grams that a text shares with an item.

    Attributes:
        item: number of the item in the index.
        n: words per n-gram: the config's, or the length of a shorter item.
        words: length of what is shared, at least n.
        start, end: where it is in the text, in characters, end exclusive.
        item_start, item_end: where it is in the item's text.
        share: of the item's n-grams, how many the text holds anywhere; above 0, at most 1.
    """

    item: int
    n: int
    words: int
    start: int
    end: int
    item_start: int
    item_end: int
    share: float


class Source(NamedTuple):
    """What became of an evaluation set. ``checked`` and ``unchecked`` together are its items.

    Attributes:
        checked: items that are looked for.
        unchecked: names of the items that are not: under ``min_n`` words, or without an n-gram of their own.
        templates: its n-grams that occur in too many items: (words, number of items), most frequent first.
    """

    checked: int
    unchecked: list[str]
    templates: list[tuple[str, int]]


@dataclass(frozen=True)
class EvaluationIndex:
    """N-grams of evaluation items, sorted by hash. Build with ``build`` or ``load``.

    Attributes:
        n, min_n, template_items: of the config it was built with.
        sources: what became of each evaluation set.
        hashes: ascending, one per n-gram and place; uint64 [grams]. Of all its words, or of its first
            ``min_n`` if it is a whole item of fewer than n.
        gram_items, gram_words, gram_lengths: the n-gram's item, first word in it, and n; [grams].
        gram_is_own: whether it is a sign by itself, neither template nor numbers; bool [grams].
        grams_of: number of different n-grams an item is looked for by; uint32 [items].
        bits: the filter; uint8 [power of two].
    """

    n: int
    min_n: int
    template_items: int
    sources: dict[str, Source]
    names: list[tuple[str, str]]
    hashes: ngrams.U64
    gram_items: npt.NDArray[np.uint32]
    gram_words: npt.NDArray[np.uint32]
    gram_lengths: npt.NDArray[np.uint8]
    gram_is_own: npt.NDArray[np.bool_]
    grams_of: npt.NDArray[np.uint32]
    bits: npt.NDArray[np.uint8]
    text: npt.NDArray[np.uint8]
    text_ends: npt.NDArray[np.int64]

    def item(self, number: int) -> Item:
        """An item as it was given."""
        start = int(self.text_ends[number - 1]) if number else 0
        source, name = self.names[number]
        return Item(source, name, self.text[start : int(self.text_ends[number])].tobytes().decode())

    def overlaps(self, text: str) -> list[Overlap]:
        """What a text shares with the items, in the order of the text."""
        return next(self.overlaps_of([text]))

    def overlaps_of(self, texts: list[str]) -> Iterator[list[Overlap]]:
        """The overlaps of each text. Many short texts together are much faster than one by one."""
        words = ngrams.split("\n".join(texts))
        ends = np.cumsum([len(text) + 1 for text in texts])
        found: dict[int, list[tuple[int, int]]] = {}
        for word, gram in zip(*(column.tolist() for column in self._candidates(words, ends))):
            found.setdefault(int(np.searchsorted(ends, words.start[word], "right")), []).append((word, gram))
        for number in range(len(texts)):
            offset = int(ends[number - 1]) if number else 0
            yield self._runs(words, found[number], offset) if number in found else []

    def _candidates(
        self, words: ngrams.Words, ends: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pairs (word of the joined texts, n-gram of the index) with equal hashes, if they can count."""
        hashes = ngrams.word_hashes(words)
        sums = ngrams.prefix_sums(hashes)
        pairs = [self._look_up(ngrams.gram_hashes(hashes, n, sums)) for n in {self.n, self.min_n}]
        word, gram = (np.concatenate(columns) for columns in zip(*pairs))
        last = word + self.gram_lengths[gram] - 1
        inside = last < len(words)
        word, gram, last = word[inside], gram[inside], last[inside]
        document = np.searchsorted(ends, words.start[word], "right")
        inside = document == np.searchsorted(ends, words.start[last], "right")
        word, gram, document = word[inside], gram[inside], document[inside]
        # what many items share is in many texts; most of it ends here, before any word is compared
        item = self.gram_items[gram].astype(np.int64)
        _, group, counts = np.unique(
            document * len(self.names) + item, return_inverse=True, return_counts=True
        )
        own = np.zeros(len(counts), np.bool_)
        own[group[self.gram_is_own[gram]]] = True
        keep = own[group] | (counts[group] >= TEMPLATE_SHARE * self.grams_of[item])
        return word[keep], gram[keep]

    def _look_up(self, grams: ngrams.U64) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pairs (place in ``grams``, place in the index) of equal hashes."""
        bit = grams >> np.uint64(65 - (len(self.bits) * 8).bit_length())  # the hash's first bits
        byte = self.bits[bit >> np.uint64(3)]
        maybe = np.flatnonzero(byte >> (bit & np.uint64(7)).astype(np.uint8) & 1)
        start = np.searchsorted(self.hashes, grams[maybe], "left")
        number = np.searchsorted(self.hashes, grams[maybe], "right") - start
        place = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number)
        return np.repeat(maybe, number), np.repeat(start, number) + place

    def _runs(self, words: ngrams.Words, hits: list[tuple[int, int]], offset: int) -> list[Overlap]:
        """Verified hits of one text, neighbours joined, without items of which only template was found."""
        runs: dict[tuple[int, int, int], list[list[int]]] = {}
        different: dict[int, set[int]] = {}
        owning: set[int] = set()
        for word, gram in sorted(hits):
            item, place = int(self.gram_items[gram]), int(self.gram_words[gram])
            n = int(self.gram_lengths[gram])
            if not ngrams.words_equal(words, word, self._words(item), place, n):
                continue
            different.setdefault(item, set()).add(int(self.hashes[gram]))
            if self.gram_is_own[gram]:
                owning.add(item)
            pieces = runs.setdefault((item, n, word - place), [])
            if pieces and pieces[-1][1] == word - 1:
                pieces[-1][1] = word
            else:
                pieces.append([word, word])
        found = []
        for (item, n, distance), pieces in runs.items():
            share = len(different[item]) / int(self.grams_of[item])
            if item not in owning and share < TEMPLATE_SHARE:
                continue
            of_item = self._words(item)
            for first, last in pieces:
                last += n - 1
                found.append(
                    Overlap(
                        item,
                        n,
                        last - first + 1,
                        int(words.start[first]) - offset,
                        int(words.end[last]) - offset,
                        int(of_item.start[first - distance]),
                        int(of_item.end[last - distance]),
                        share,
                    )
                )
        return sorted(found, key=lambda o: (o.start, -o.end, o.item, o.item_start))

    def _words(self, item: int) -> ngrams.Words:
        return _item_words(self.item(item).text)

    def save(self, path: Path) -> None:
        """Write the index to a file, atomically."""
        about = {
            "format": FORMAT,
            "n": self.n,
            "min_n": self.min_n,
            "template_items": self.template_items,
            "sources": {name: source._asdict() for name, source in self.sources.items()},
            "names": self.names,
        }
        arrays = {name: getattr(self, name) for name in ARRAYS}
        write_atomic(path, save(arrays, {"index": json.dumps(about, ensure_ascii=False)}))


ARRAYS = (
    *("hashes", "gram_items", "gram_words", "gram_lengths", "gram_is_own"),
    *("grams_of", "bits", "text", "text_ends"),
)
DTYPES = {"U64": "<u8", "I64": "<i8", "U32": "<u4", "U8": "u1", "BOOL": "?"}  # safetensors' names


@lru_cache(256)
def _item_words(text: str) -> ngrams.Words:
    return ngrams.split(text)


def load(path: Path, config: DecontaminationConfig | None = None) -> EvaluationIndex:
    """Map an index; its pages are shared by all processes that do.

    Raises:
        DamagedError: not a whole index file.
        IndexMismatch: built with another n, min_n or template_items than ``config`` has.
    """
    try:
        with open(path, "rb") as handle:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(mapped[:8], "little")
        header: dict[str, Any] = json.loads(mapped[8 : 8 + size])
        about = json.loads(header.pop("__metadata__")["index"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, expected {FORMAT}")
        arrays = {}
        for name in ARRAYS:
            start, stop = (8 + size + offset for offset in header[name]["data_offsets"])
            dtype = np.dtype(DTYPES[header[name]["dtype"]])
            arrays[name] = np.frombuffer(mapped, dtype, (stop - start) // dtype.itemsize, start)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} is no index of evaluation n-grams ({error!r}). Delete it; the next run builds it again."
        ) from error
    for name in ("n", "min_n", "template_items"):
        if config is not None and about[name] != getattr(config, name):
            raise IndexMismatch(
                f"{path} was built with {name}={about[name]}, the config says {getattr(config, name)}. "
                "Build it again."
            )
    return EvaluationIndex(
        n=about["n"],
        min_n=about["min_n"],
        template_items=about["template_items"],
        sources={
            name: Source(s["checked"], s["unchecked"], [(gram, items) for gram, items in s["templates"]])
            for name, s in about["sources"].items()
        },
        names=[(source, name) for source, name in about["names"]],
        **arrays,
    )
