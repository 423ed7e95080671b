"""Pairs of neighbours and their counts: a hash table, and a heap that finds the most frequent, as kernels.

Both only grow inside the kernels of ``joining``, which come back for room before they write; ``merging`` then
builds them anew without what can no longer be joined.
"""

import numpy as np
from numpy.typing import NDArray

from tokenizer.kernels import njit

KEY, COUNT, START, LENGTH = range(4)  # columns of the table
EMPTY = -1
SYMBOL_BITS = 32
SYMBOL_MASK = (1 << SYMBOL_BITS) - 1
ENTRY = 1 << 62  # heap keys from here on are entries (Scaffold-BPE), not pairs: behind all pairs of one count

# Called by other kernels alone: without entry points for Python and C they compile in half the time.
inner = njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def new_table(pairs: int) -> NDArray[np.int64]:
    """An empty table, at most half full with so many pairs.

    A row is a pair, half a cache line: ``KEY`` (left symbol << 32 | right symbol, or ``EMPTY``), ``COUNT``
    (weighted occurrences), ``START`` and ``LENGTH`` of its list of positions (none: it is joined, or barred).

    Returns:
        ``[power of 2, 4]``.
    """
    table = np.empty((1 << max(int(2 * pairs - 1).bit_length(), 10), 4), np.int64)
    table[:, KEY] = EMPTY
    return table


@inner
def slot_of(table: NDArray[np.int64], key: int) -> int:
    """Row of ``key``, or the empty row where it belongs."""
    mask = len(table) - 1
    mixed = np.uint64(key) * _GOLDEN
    slot = np.int64(mixed >> np.uint64(32)) & mask
    while table[slot, KEY] != key and table[slot, KEY] != EMPTY:
        slot = (slot + 1) & mask
    return slot


@inner
def add_to(table: NDArray[np.int64], key: int, change: int) -> None:
    """Change the count of a pair, if the table has it."""
    slot = slot_of(table, key)
    if table[slot, KEY] == key:
        table[slot, COUNT] += change


@njit(cache=True, nogil=True)
def copy_pairs(old: NDArray[np.int64], new: NDArray[np.int64], least: int) -> int:
    """Copy the pairs that may yet be joined; returns how many."""
    copied = 0
    for row in range(len(old)):
        key = old[row, KEY]
        if key != EMPTY and old[row, COUNT] >= least and old[row, LENGTH] > 0:
            slot = slot_of(new, key)
            for column in range(4):
                new[slot, column] = old[row, column]
            copied += 1
    return copied


@njit(cache=True, nogil=True)
def heap_of(table: NDArray[np.int64], heap: NDArray[np.int64]) -> int:
    """Fill a heap with the pairs of a table that have positions; returns its size."""
    size = 0
    for row in range(len(table)):
        if table[row, KEY] != EMPTY and table[row, LENGTH] > 0:
            size = push(heap, size, table[row, COUNT], table[row, KEY])
    return size


@njit(cache=True, nogil=True)
def push(heap: NDArray[np.int64], size: int, count: int, key: int) -> int:
    """Add to a heap ``[capacity, 2]`` of (count, key), highest count first, then lowest key.

    Lowest key: of pairs equally frequent, the one whose left symbol is older, then whose right symbol is: the
    order of Hugging Face's trainer.

    Returns:
        The new size.
    """
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, 0] > count or (heap[above, 0] == count and heap[above, 1] <= key):
            break
        heap[at, 0], heap[at, 1] = heap[above, 0], heap[above, 1]
        at = above
    heap[at, 0], heap[at, 1] = count, key
    return size + 1


@inner
def pop(heap: NDArray[np.int64], size: int) -> int:
    """Drop the head; returns the new size."""
    size -= 1
    sink(heap, size, heap[size, 0], heap[size, 1])
    return size


@inner
def sink(heap: NDArray[np.int64], size: int, count: int, key: int) -> None:
    """Put (count, key) in the head's place, then where it belongs."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            heap[other, 0] > heap[child, 0]
            or (heap[other, 0] == heap[child, 0] and heap[other, 1] < heap[child, 1])
        ):
            child = other
        if count > heap[child, 0] or (count == heap[child, 0] and key <= heap[child, 1]):
            break
        heap[at, 0], heap[at, 1] = heap[child, 0], heap[child, 1]
        at = child
    heap[at, 0], heap[at, 1] = count, key
