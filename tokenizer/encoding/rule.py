"""Joining the bytes of one pre-token by the canonical rule of ``tokenizer.vocabulary``.

A pair of ranks and the rank of what they make share 64 bits, in an open-addressing table that
``tokenizer.encoding.ranks`` makes: one cache miss a question.
"""

import numpy as np
from numpy.typing import NDArray

from tokenizer.config import BYTES
from tokenizer.kernels import njit

RANK_BITS = 21
MOST_RANKS = 1 << RANK_BITS
NONE = np.int32(np.iinfo(np.int32).max)  # above every rank, so that a minimum needs no second question
EMPTY = np.uint64(np.iinfo(np.uint64).max)  # a place in the table of pairs
SHORT = 64  # up to so many bytes looking at every pair again beats a heap

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True)
def join(
    byte_pairs: NDArray[np.int32],
    pairs: NDArray[np.uint64],
    symbols: NDArray[np.int32],
    start: int,
    stop: int,
    joined: NDArray[np.int32],
    least: int,
) -> int:
    """Join the bytes of a pre-token by the rule, in place.

    Args:
        byte_pairs, pairs: as in ``Ranks``.
        symbols: the ranks of its bytes are ``symbols[start:stop]``.
        joined: at least ``SHORT`` long; its contents do not matter.
        least: stop when so few are left.

    Returns:
        where they end now.
    """
    if stop - start > SHORT:
        return start + _join_long(byte_pairs, pairs, symbols[start:stop], least)
    last = stop - start - 1  # of the pairs, one more than its number
    for index in range(last):
        joined[index] = byte_pairs[symbols[start + index] * BYTES + symbols[start + index + 1]]
    while last >= least:
        lowest, at = NONE, 0
        for index in range(last):
            if joined[index] < lowest:  # not <=: the leftmost of equals
                lowest, at = joined[index], index
        if lowest == NONE:
            break
        symbols[start + at] = lowest
        last -= 1
        for index in range(at, last):
            joined[index] = joined[index + 1]
        for index in range(start + at + 1, start + last + 1):
            symbols[index] = symbols[index + 1]
        if at > 0:
            joined[at - 1] = pair_rank(pairs, symbols[start + at - 1], lowest)
        if at < last:
            joined[at] = pair_rank(pairs, lowest, symbols[start + at + 1])
    return start + last + 1


@njit(cache=True, nogil=True)
def pair_rank(pairs: NDArray[np.uint64], left: int, right: int) -> np.int32:
    """Rank of the entry that two entries make, or ``NONE``."""
    key = pair_key(left, right)
    mask = np.uint64(len(pairs) - 1)
    slot = spread(key) & mask
    while True:
        packed = pairs[slot]
        if packed == EMPTY:
            return NONE
        if packed >> np.uint64(RANK_BITS) == key:
            return np.int32(packed & np.uint64(MOST_RANKS - 1))
        slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _join_long(
    byte_pairs: NDArray[np.int32], pairs: NDArray[np.uint64], symbols: NDArray[np.int32], least: int
) -> int:
    """The same joins in O(n log n): a heap of (rank, place) over a linked list.

    A place keeps its number while what stands there grows, so the order of places is the order of the text. A
    heap entry is stale if the pair at its place has another rank by now; a pair that is gone stays gone.
    """
    count = len(symbols)
    after = np.empty(count, np.int32)  # next place, or count
    before = np.empty(count, np.int32)  # previous place, or -1
    made = np.empty(count, np.int32)  # rank of what the symbols here and at the next place make
    heap = np.empty(2 * count, np.int64)  # rank << 32 | place
    size, left_over = np.int64(0), count
    for place in range(count):
        after[place], before[place], made[place] = place + 1, place - 1, NONE
        if place + 1 < count:
            made[place] = byte_pairs[symbols[place] * BYTES + symbols[place + 1]]
            if made[place] != NONE:
                size = _push(heap, size, (np.int64(made[place]) << 32) | place)
    while size and left_over > least:
        top = heap[0]
        size = _pop(heap, size)
        rank, place = np.int32(top >> 32), np.int32(top & 0xFFFFFFFF)
        if made[place] != rank:
            continue
        left_over -= 1
        right = after[place]
        symbols[place] = rank
        made[right] = NONE
        after[place] = after[right]
        if after[place] < count:
            before[after[place]] = place
            made[place] = pair_rank(pairs, rank, symbols[after[place]])
            if made[place] != NONE:
                size = _push(heap, size, (np.int64(made[place]) << 32) | place)
        else:
            made[place] = NONE
        left = before[place]
        if left >= 0:
            made[left] = pair_rank(pairs, symbols[left], rank)
            if made[left] != NONE:
                size = _push(heap, size, (np.int64(made[left]) << 32) | left)
    kept, place = 0, 0
    while place < count:
        symbols[kept] = symbols[place]
        kept += 1
        place = after[place]
    return kept


@njit(cache=True, nogil=True)
def _push(heap: NDArray[np.int64], size: int, item: int) -> int:
    """Add to a binary min-heap; returns its new size."""
    at = size
    while at > 0 and heap[(at - 1) >> 1] > item:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = item
    return size + 1


@njit(cache=True, nogil=True)
def _pop(heap: NDArray[np.int64], size: int) -> int:
    """Drop the least item of a binary min-heap; returns its new size."""
    size -= 1
    item, at = heap[size], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item
    return size


@njit(cache=True, nogil=True)
def pair_key(left: int, right: int) -> np.uint64:
    """Two ranks in one number."""
    return (np.uint64(left) << np.uint64(RANK_BITS)) | np.uint64(right)


@njit(cache=True, nogil=True)
def spread(key: np.uint64) -> np.uint64:
    """Mix a key so that its low bits depend on all of it."""
    mixed = key * _GOLDEN
    return mixed ^ (mixed >> np.uint64(32))
