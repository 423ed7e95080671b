"""Counting in memory: a hash table of distinct pre-tokens.

The words' bytes lie end to end in the order they were first met, as in ``Words``; an open-addressing table of
8-byte slots (31 bits of hash, the word's number) finds them again.
"""

from collections.abc import Iterable

import numpy as np

from tokenizer.kernels import njit
from tokenizer.learning.wordfiles import sort_words
from tokenizer.learning.words import Words
from tokenizer.load import check_text
from tokenizer.splitting.scan import next_end
from tokenizer.splitting.unicode import character_classes

_EMPTY = -1
_FIRST_WORDS = 1 << 12
_BYTES_A_WORD = 8  # room for text that a table begins with


@njit(cache=True, nogil=True)
def _hash(text, start, stop):  # type: ignore[no-untyped-def]
    """31 bits: FNV-1a, then its high bits folded down, for its low ones follow the last byte too closely."""
    value = np.uint64(0xCBF29CE484222325)
    for index in range(start, stop):
        value = (value ^ np.uint64(text[index])) * np.uint64(0x100000001B3)
    value ^= value >> np.uint64(32)
    value *= np.uint64(0x9E3779B97F4A7C15)
    return np.int64(value >> np.uint64(33))


@njit(cache=True, nogil=True)
def _count(text, start, classes, slots, data, offsets, counts, size):  # type: ignore[no-untyped-def]
    """Count the pre-tokens of ``text`` from ``start`` on, until a new one finds no room.

    Returns:
        where it stopped, and how many distinct words there are then.
    """
    mask = len(slots) - 1
    stop = len(text)
    while start < stop:
        end = next_end(text, start, stop, classes)
        length = end - start
        tag = _hash(text, start, end)
        slot = tag & mask
        while True:
            found = slots[slot]
            if found == _EMPTY:
                base = offsets[size]
                if size == len(counts) or base + length > len(data):
                    return start, size
                for index in range(length):
                    data[base + index] = text[start + index]
                offsets[size + 1] = base + length
                counts[size] = 1
                slots[slot] = (tag << 32) | size
                size += 1
                break
            if found >> 32 == tag:
                word = found & 0xFFFFFFFF
                base = offsets[word]
                same = offsets[word + 1] - base == length
                index = 0
                while same and index < length:
                    same = data[base + index] == text[start + index]
                    index += 1
                if same:
                    counts[word] += 1
                    break
            slot = (slot + 1) & mask
        start = end
    return start, size


@njit(cache=True, nogil=True)
def _spread(old, new):  # type: ignore[no-untyped-def]
    """Put every used slot of ``old`` into ``new``, a larger table without any."""
    mask = len(new) - 1
    for found in old:
        if found != _EMPTY:
            slot = (found >> 32) & mask
            while new[slot] != _EMPTY:
                slot = (slot + 1) & mask
            new[slot] = found


class WordTable:
    """Distinct pre-tokens of the texts added so far.

    Args:
        memory: bytes the table may take; it holds a single word even if that is longer. None: no limit.
    """

    def __init__(self, memory: int | None = None) -> None:
        self.memory = memory
        self._classes = character_classes()
        self._begin()

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes the table takes."""
        return sum(array.nbytes for array in (self._slots, self._data, self._offsets, self._counts))

    def add(self, text: bytes, start: int = 0) -> int:
        """Count the pre-tokens of UTF-8 text from byte ``start`` on.

        Returns:
            where it stopped: at the end, or before a word that would need more than ``memory``.
        """
        raw = np.frombuffer(text, np.uint8)
        while True:
            start, self._size = _count(
                raw, start, self._classes, self._slots, self._data, self._offsets, self._counts, self._size
            )
            if start == len(raw) or not self._grow():
                return int(start)

    def words(self) -> Words:
        """What was counted."""
        return sort_words(self._data, self._offsets[: self._size + 1], self._counts[: self._size])

    def clear(self) -> None:
        """Forget all, but keep the room, unless a single long word took more than there is."""
        if self.memory is not None and self.nbytes > self.memory:
            self._begin()
        else:
            self._slots.fill(_EMPTY)
            self._size = 0

    def _begin(self) -> None:
        self._size = 0
        self._slots = np.full(2 * _FIRST_WORDS, _EMPTY, np.int64)
        self._data = np.empty(_FIRST_WORDS * _BYTES_A_WORD, np.uint8)
        self._offsets = np.zeros(_FIRST_WORDS + 1, np.int64)
        self._counts = np.empty(_FIRST_WORDS, np.int64)

    def _grow(self) -> bool:
        """Double what is full; False if that would be too much, and there is something to give up first."""
        words_full = self._size == len(self._counts)
        more = self._slots.nbytes + 2 * self._counts.nbytes if words_full else self._data.nbytes
        if self.memory is not None and self.nbytes + more > self.memory and self._size:
            return False
        if words_full:
            self._offsets = np.append(self._offsets, np.empty(len(self._counts), np.int64))
            self._counts = np.append(self._counts, np.empty(len(self._counts), np.int64))
            slots = np.full(2 * len(self._slots), _EMPTY, np.int64)
            _spread(self._slots, slots)
            self._slots = slots
        else:
            self._data = np.append(self._data, np.empty(len(self._data), np.uint8))
        return True


def count_words(texts: Iterable[str]) -> Words:
    """Count the pre-tokens of a few texts, in this process and in memory.

    Raises:
        TextError: a text has a lone surrogate.
    """
    table = WordTable()
    for text in texts:
        check_text(text)
        table.add(text.encode())
    return table.words()
