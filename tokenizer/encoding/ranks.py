"""One pre-token to ranks: the canonical rule of ``tokenizer.vocabulary``, as kernels.

The tables are made from the entries alone. The rule asks of two neighbours whether their bytes together are
an entry; ``pairs`` answers by their ranks. Of all the cuts of an entry into two entries it holds the one that
joining comes to, which is what is left when the entry's own bytes are joined: ``tokenizer.merges`` says why
there is no more than one.

Kernels release the GIL and share nothing, so threads may run them side by side. What runs for every pre-token
takes plain arrays: reading one out of a tuple counts a reference, and threads that do so wait for each other.
``np.int64(1)`` and the like are there because a literal is a type of its own to Numba, which would compile
everything below it once more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenizer.config import BYTES
from tokenizer.encoding.rule import EMPTY, MOST_RANKS, NONE, RANK_BITS, SHORT, join, pair_key, spread
from tokenizer.errors import VocabularyError
from tokenizer.kernels import njit
from tokenizer.vocabulary import byte_order

_OFFSET = np.uint64(0xCBF29CE484222325)  # FNV-1a
_PRIME = np.uint64(0x100000001B3)


class Ranks(NamedTuple):
    """Tables to look entries up in, made by ``ranks_of``; what the kernels take.

    Attributes:
        data: the entries' bytes end to end, ``[bytes]`` uint8.
        offsets: entry ``r`` is ``data[offsets[r] : offsets[r + 1]]``, ``[ranks + 1]`` int64.
        byte_ranks: rank of each byte, ``[256]`` int32.
        byte_pairs: rank of what the entries ``a`` and ``b`` below 256 make, ``[256 * 256]`` int32 at
            ``256 * a + b``, or ``NONE``.
        slots: open addressing by the entry's bytes, ``[power of 2]`` int32: a rank, or -1.
        pairs: open addressing by pair, ``[power of 2]`` uint64: left, right and made rank, 21 bits each.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    byte_ranks: NDArray[np.int32]
    byte_pairs: NDArray[np.int32]
    slots: NDArray[np.int32]
    pairs: NDArray[np.uint64]


def ranks_of(texts: Sequence[bytes]) -> Ranks:
    """The tables of a vocabulary.

    Args:
        texts: bytes of the entries in rank order, scaffolds included (``Vocabulary.texts``).

    Raises:
        VocabularyError: the first 256 are not the bytes in ``byte_order()``, an entry is empty or is there
            twice, or there are more than 2,097,152.
    """
    if list(texts[:BYTES]) != [bytes([byte]) for byte in byte_order()]:
        raise VocabularyError("the first 256 entries of a vocabulary must be the bytes in byte_order()")
    if len(texts) > MOST_RANKS:
        raise VocabularyError(f"a vocabulary may have {MOST_RANKS} entries, this one has {len(texts)}")
    data = np.frombuffer(b"".join(texts), np.uint8).copy()  # writable like other texts: one type, one kernel
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=offsets[1:])
    if empty := np.flatnonzero(np.diff(offsets) == 0).tolist():
        raise VocabularyError(f"entry {empty[0]} is empty")
    slots = np.full(_table_size(len(texts)), -1, np.int32)
    twice = int(_fill_slots(data, offsets, slots))
    if twice >= 0:
        raise VocabularyError(
            f"entry {twice} ({texts[twice]!r}) is there twice: first as {texts.index(texts[twice])}"
        )
    byte_ranks = np.empty(BYTES, np.int32)
    byte_ranks[byte_order()] = np.arange(BYTES)

    def tables(cuts: NDArray[np.uint64]) -> Ranks:
        pairs = np.full(_table_size(len(cuts)), EMPTY, np.uint64)
        byte_pairs = np.full(BYTES * BYTES, NONE, np.int32)
        _fill_pairs(cuts, pairs, byte_pairs)
        return Ranks(data, offsets, byte_ranks, byte_pairs, slots, pairs)

    every = _find_cuts(data, offsets, slots)
    return tables(every[_comes_up(tables(every), every)])


def _table_size(count: int) -> int:
    """A power of two that is at most half full."""
    return 1 << max(int(2 * count - 1).bit_length(), 4)


@njit(cache=True, nogil=True)
def encode_words(
    ranks: Ranks, data: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ranks of many pre-tokens, laid out as ``Words``.

    Returns:
        symbols end to end, ``[symbols]``; word ``i`` has ``symbols[ends[i] : ends[i + 1]]``, ``[words + 1]``.
    """
    entries, starts, byte_ranks, byte_pairs, slots, pairs = ranks
    # A word has at most as many symbols as bytes. Pages nothing is written to take no memory.
    symbols = np.empty(offsets[-1] - offsets[0], np.int32)
    ends = np.zeros(len(offsets), np.int64)
    joined = np.empty(SHORT, np.int32)
    count = np.int64(0)
    for word in range(len(offsets) - 1):
        start, stop = offsets[word], offsets[word + 1]
        whole = find(entries, starts, slots, data, start, stop)
        if whole >= 0:
            symbols[count] = whole
            count += 1
        else:
            for index in range(start, stop):
                symbols[count + index - start] = byte_ranks[data[index]]
            count = join(byte_pairs, pairs, symbols, count, count + stop - start, joined, np.int64(1))
        ends[word + 1] = count
    return symbols[:count].copy(), ends


@njit(cache=True, nogil=True)
def find(
    entries: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    slots: NDArray[np.int32],
    data: NDArray[np.uint8],
    start: int,
    stop: int,
) -> int:
    """Rank of the entry ``data[start:stop]``, or -1; the tables are those of ``Ranks``."""
    return _look_up(entries, offsets, slots, data, start, stop, _hash(data, start, stop))


@njit(cache=True, nogil=True)
def _hash(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """FNV-1a of ``data[start:stop]``."""
    value = _OFFSET
    for index in range(start, stop):
        value = (value ^ np.uint64(data[index])) * _PRIME
    return value


@njit(cache=True, nogil=True)
def _look_up(
    entries: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    slots: NDArray[np.int32],
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    value: np.uint64,
) -> int:
    """``find`` of what hashes to ``value``."""
    mask = np.uint64(len(slots) - 1)
    slot = spread(value) & mask
    length = stop - start
    while True:
        rank = np.int64(slots[slot])
        if rank < 0:
            return np.int64(-1)
        begin = offsets[rank]
        if offsets[rank + 1] - begin == length:
            same = 0
            while same < length and entries[begin + same] == data[start + same]:
                same += 1
            if same == length:
                return rank
        slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _fill_slots(data: NDArray[np.uint8], offsets: NDArray[np.int64], slots: NDArray[np.int32]) -> int:
    """Enter every entry; returns the first that was there already, or -1."""
    mask = np.uint64(len(slots) - 1)
    for rank in range(len(offsets) - 1):
        value = _hash(data, offsets[rank], offsets[rank + 1])
        if _look_up(data, offsets, slots, data, offsets[rank], offsets[rank + 1], value) >= 0:
            return rank
        slot = spread(value) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = rank
    return -1


@njit(cache=True, nogil=True)
def _find_cuts(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], slots: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """Every cut of every entry into two entries, packed as in ``Ranks.pairs``, ``[cuts]`` in rank order."""
    found = np.empty(len(data), np.uint64)
    count = 0
    for rank in range(len(offsets) - 1):
        start, stop = offsets[rank], offsets[rank + 1]
        value = _OFFSET
        for middle in range(start + 1, stop):
            value = (value ^ np.uint64(data[middle - 1])) * _PRIME  # of the left part; see _hash
            left = _look_up(data, offsets, slots, data, start, middle, value)
            if left < 0:
                continue
            right = find(data, offsets, slots, data, middle, stop)
            if right < 0:
                continue
            found[count] = (pair_key(left, right) << np.uint64(RANK_BITS)) | np.uint64(rank)
            count += 1
    return found[:count].copy()


@njit(cache=True, nogil=True)
def _comes_up(ranks: Ranks, cuts: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which cuts joining comes to, ``[cuts]``: those whose two parts are left of their entry's bytes."""
    entries, offsets, byte_ranks, byte_pairs, _, pairs = ranks
    longest = np.int64(0)
    for rank in range(len(offsets) - 1):
        longest = max(longest, offsets[rank + 1] - offsets[rank])
    symbols = np.empty(longest, np.int32)
    joined = np.empty(SHORT, np.int32)
    found = np.empty(len(cuts), np.bool_)
    done, left = np.int64(-1), np.int64(0)
    for index in range(len(cuts)):
        made = np.int64(cuts[index] & np.uint64(MOST_RANKS - 1))
        if made != done:
            size = offsets[made + 1] - offsets[made]
            for place in range(size):
                symbols[place] = byte_ranks[entries[offsets[made] + place]]
            left = join(byte_pairs, pairs, symbols, np.int64(0), size, joined, np.int64(2))
            done = made
        key = cuts[index] >> np.uint64(RANK_BITS)
        found[index] = left == 2 and pair_key(symbols[0], symbols[1]) == key
    return found


@njit(cache=True, nogil=True)
def _fill_pairs(found: NDArray[np.uint64], pairs: NDArray[np.uint64], byte_pairs: NDArray[np.int32]) -> None:
    """Enter the cuts of ``_find_cuts`` in both tables."""
    mask = np.uint64(len(pairs) - 1)
    for packed in found:
        key = packed >> np.uint64(RANK_BITS)
        left, right = key >> np.uint64(RANK_BITS), key & np.uint64(MOST_RANKS - 1)
        if left < np.uint64(BYTES) and right < np.uint64(BYTES):
            byte_pairs[left * np.uint64(BYTES) + right] = np.int32(packed & np.uint64(MOST_RANKS - 1))
        slot = spread(key) & mask
        while pairs[slot] != EMPTY:
            slot = (slot + np.uint64(1)) & mask
        pairs[slot] = packed
