"""Gopher's repetition rules: the decisions of datatrove's ``GopherRepetitionFilter``, by arrays.

Almost no n-gram of an ordinary text occurs twice, and only those that do can break a rule. So n-grams are
compared as integers, all texts of a batch in one sort, and Python looks only at what repeats, and only in
texts where that is enough to matter.
"""

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.cleaning.batches import BatchFilter, Stream, Verdict
from data_pipeline.cleaning.words import Analysis, Ints, Lexicon
from data_pipeline.config import cleaning

Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

PREFIX = 16  # bytes in which repeated n-grams agree, before they are compared as a whole
BASE = 0x9E3779B97F4A7C15  # odd, so that its powers are invertible modulo 2^64
_rng = np.random.default_rng(0)
BYTES = _rng.integers(1, 2**63, 256, dtype=np.uint64)  # a number for each byte


class GopherRepetition(BatchFilter):
    """Drops texts that repeat lines, paragraphs or n-grams of words."""

    name = "👯 Gopher repetition"
    _paragraphs = re.compile(r"\n{2,}")
    _lines = re.compile(r"\n+")

    def __init__(
        self,
        language: str = "en",
        options: cleaning.GopherRepetition | None = None,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        super().__init__(language, exclusion_writer)
        self.options = options or cleaning.GopherRepetition()

    def judge(self, documents: list[Document], words: Lexicon) -> list[Verdict | None]:
        verdicts = [self.judge_lines(document.text) for document in documents]
        left = [number for number, verdict in enumerate(verdicts) if verdict is None]
        for number, verdict in zip(
            left, self.judge_words([documents[number].text for number in left], words)
        ):
            verdicts[number] = verdict
        return verdicts

    def judge_lines(self, text: str) -> Verdict | None:
        """The rules on paragraphs and lines."""
        if not text:
            return Verdict("empty", 0)
        options = self.options
        stripped = text.strip()
        # a split by pattern is slow, and needed only where there are empty lines
        paragraphs = self._paragraphs.split(stripped) if "\n\n" in stripped else [stripped]
        lines = self._lines.split(text) if "\n\n" in text else text.split("\n")
        for what, pieces, most, most_characters in (
            ("para", paragraphs, options.dup_para_frac, options.dup_para_char_frac),
            ("line", lines, options.dup_line_frac, options.dup_line_char_frac),
        ):
            if len(set(pieces)) == len(pieces):
                continue
            number, characters = find_duplicates(pieces)
            if most and number / len(pieces) > most:
                return Verdict(f"dup_{what}_frac", number / len(pieces))
            if most_characters and characters / len(text) > most_characters:
                return Verdict(f"dup_{what}_char_frac", characters / len(text))
        return None

    def judge_words(self, texts: list[str], words: Lexicon) -> list[Verdict | None]:
        """The rules on n-grams of words."""
        analyses = words.analyse(texts)
        stream = Stream.of(analyses)
        sizes = np.array([len(text) for text in texts], np.int64)
        verdicts: list[Verdict | None] = [None] * len(texts)
        wanted = [n for n, _ in self.options.top_n_grams]
        tops = top_n_grams(stream, words.length[stream.words], len(words.names), wanted)
        for n, most in self.options.top_n_grams:
            characters = tops[n]
            for number in np.flatnonzero(characters / sizes > most).tolist():
                verdicts[number] = verdicts[number] or Verdict(
                    f"top_{n}_gram", int(characters[number]) / len(texts[number])
                )
        open_ = np.array([verdict is None for verdict in verdicts], bool)
        if self.options.dup_n_grams:
            repeats = Repeats(stream, words, [letters(analysis, words) for analysis in analyses])
            for n, most in self.options.dup_n_grams:
                for number, characters_ in repeats.repeated(n, open_, most * sizes):
                    if characters_ / len(texts[number]) > most:
                        verdicts[number] = Verdict(
                            f"duplicated_{n}_n_grams", characters_ / len(texts[number])
                        )
                        open_[number] = False
        return verdicts


def letters(analysis: Analysis, words: Lexicon) -> str:
    """The words of a text in one string."""
    if len(analysis.chunks):
        return "".join(analysis.text.split())
    return "".join([words.names[number] for number in analysis.words.tolist()])


def groups(keys: npt.NDArray[np.integer], at: Longs) -> tuple[Longs, Longs, Longs, Longs]:
    """Equal keys: (positions by key, where each group begins in them, its size, its first position)."""
    order = np.argsort(keys)
    keys, at = keys[order], at[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    counts = np.diff(starts, append=len(keys))
    return at, starts, counts, np.minimum.reduceat(at, starts)


def top_n_grams(stream: Stream, length: Ints, vocabulary: int, wanted: list[int]) -> dict[int, Longs]:
    """Characters of each text in its most frequent n-gram; of several, in the one that comes first.

    An n-gram that occurs twice begins with an (n-1)-gram that does, so each n looks at fewer places.

    Args:
        stream: the texts' words.
        length: characters of each word; int32 [words].
        vocabulary: numbers of words are below it.
        wanted: the values of n.

    Returns:
        n -> characters, spaces between words included; 0 for a text of fewer than n words; int64 [texts].
    """
    place = np.int64(2**40)  # more than there are words in a batch
    until = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])  # characters before each word
    at = np.arange(len(stream.words))
    last = stream.starts[1:][stream.text]  # end of each word's text
    grams = stream.text.astype(np.int64) * vocabulary + stream.words
    found: dict[int, Longs] = {}
    for n in range(1, max(wanted, default=0) + 1):
        if n > 1:
            inside = at + n <= last[at]
            at, grams = at[inside], grams[inside]
            grams = grams * vocabulary + stream.words[at + n - 1]
        elif n not in wanted:
            continue
        first = stream.starts[:-1].copy()
        count = (np.diff(stream.starts) >= n).astype(np.int64)
        if len(at):
            ordered, starts, counts, firsts = groups(grams, at)
            text = stream.text[firsts]  # ascending, as the text is what keys begin with
            borders = np.flatnonzero(np.concatenate([[True], text[1:] != text[:-1]]))
            best = np.maximum.reduceat(counts * place + (place - 1 - firsts), borders)
            repeated = best // place > 1
            texts = text[borders][repeated]
            count[texts] = (best // place)[repeated]
            first[texts] = (place - 1 - best % place)[repeated]
            again = np.repeat(counts > 1, counts)
            grams = np.repeat(np.arange(len(starts)), counts)[again]
            at = ordered[again]
        end = np.minimum(first + n, stream.starts[-1])
        found[n] = count * (until[end] - until[first] + n - 1)
    return found


class Repeats:
    """Finds n-grams that occurred before in their text, as ``find_all_duplicate`` of datatrove counts them.

    It compares words run together (``ab c`` equals ``a bc``), goes on after a repeated n-gram behind it, and
    remembers only the n-grams it does not skip.
    """

    def __init__(self, stream: Stream, words: Lexicon, letters: list[str]) -> None:
        self.stream = stream
        self.data = "".join(letters).encode("utf-8", "surrogatepass")
        self.byte = np.concatenate([[0], np.cumsum(words.size[stream.words], dtype=np.int64)])
        self.character = np.concatenate([[0], np.cumsum(words.length[stream.words], dtype=np.int64)])
        self.last = stream.starts[1:][stream.text]
        self.powers = powers(len(self.data) + 1)
        hashes = BYTES[np.frombuffer(self.data, np.uint8)]
        hashes *= self.powers[: len(hashes)]
        self.sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes)])
        self.salt = stream.text.astype(np.uint64) * np.uint64(BASE)
        self.alike = self._alike()

    def hashes(self, at: Longs, ends: Longs) -> Hashes:
        """Of the texts' numbers and the bytes from words ``at`` to bytes ``ends``; equal for equal bytes."""
        starts = self.byte[at]
        stretch = (self.sums[ends] - self.sums[starts]) * self.powers[len(self.data) - starts]
        mixed: Hashes = stretch ^ self.salt[at]
        return mixed

    def _alike(self) -> npt.NDArray[np.bool_]:
        """Whether the ``PREFIX`` bytes from a word on occur twice (or are not so many); bool [words]."""
        alike = np.ones(len(self.stream.words), bool)
        at = np.flatnonzero(self.byte[:-1] + PREFIX <= self.byte[self.last])
        if len(at):
            ordered, _, counts, _ = groups(self.hashes(at, self.byte[at] + PREFIX), at)
            alike[ordered] = np.repeat(counts > 1, counts)
        return alike

    def repeated(
        self, n: int, among: npt.NDArray[np.bool_], bounds: npt.NDArray[np.float64]
    ) -> list[tuple[int, int]]:
        """Characters in repeated n-grams, for the texts where they might be more than a bound.

        Args:
            n: words in an n-gram.
            among: which texts to look at; bool [texts].
            bounds: characters; float64 [texts].

        Returns:
            (text, characters in repeated n-grams) for texts among which are all with more than the bound.
        """
        at = np.arange(len(self.stream.words))
        at = at[at + n <= self.last[at]]
        at = at[(self.alike[at] | (self.byte[at + n] - self.byte[at] < PREFIX)) & among[self.stream.text[at]]]
        if not len(at):
            return []
        ordered, _, counts, firsts = groups(self.hashes(at, self.byte[at + n]), at)
        again = counts > 1
        members = np.sort(ordered[np.repeat(again, counts)])
        later = members[~np.isin(members, firsts[again], assume_unique=True)]
        if not len(later):
            return []
        ends = self.character[later + n]
        covered = ends - np.maximum(self.character[later], np.concatenate([[0], ends[:-1]]))
        most = np.bincount(self.stream.text[later], weights=covered, minlength=len(bounds))
        found = []
        for text in np.flatnonzero(most > bounds).tolist():
            low, high = np.searchsorted(members, self.stream.starts[text : text + 2])
            found.append((text, self.walk(members[low:high].tolist(), n)))
        return found

    def walk(self, at: list[int], n: int) -> int:
        """Characters in repeated n-grams of one text, given the places of all that might be repeated."""
        seen: set[bytes] = set()
        free = characters = 0
        for place in at:
            if place < free:
                continue
            gram = self.data[self.byte[place] : self.byte[place + n]]
            if gram in seen:
                characters += int(self.character[place + n] - self.character[place])
                free = place + n
            else:
                seen.add(gram)
        return characters


@lru_cache(1)
def _powers(size: int) -> Hashes:
    table = np.full(size, BASE, np.uint64)
    table[0] = 1
    return np.cumprod(table)


def powers(size: int) -> Hashes:
    """The first powers of ``BASE`` modulo 2^64, at least ``size`` of them."""
    return _powers(1 << max(20, (size - 1).bit_length()))
