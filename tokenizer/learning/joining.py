"""The kernels of merging: join the most frequent pair everywhere, again and again.

What makes it fast: the words lie end to end in one array, a cell a byte, in which a neighbour is found by
arithmetic; each pair has the list of its positions, written once when the pair comes up; counts of neighbours
are summed in arrays indexed by symbol, so the hash table is asked once per kind of neighbour; and a pair that
comes up less often than ``min_frequency`` is never entered, since it cannot grow (but see ``_appearances``).
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tokenizer.learning.pairs import (
    COUNT,
    ENTRY,
    KEY,
    LENGTH,
    START,
    SYMBOL_BITS,
    SYMBOL_MASK,
    add_to,
    pop,
    push,
    sink,
    slot_of,
)

DONE, EXHAUSTED, PAUSED, FULL = range(4)
# Places in `State.numbers`.
RANKS, WITH_ID, PAIRS, CANDIDATES, WRITTEN, NEED_POSITIONS, NEED_PAIRS = range(7)
LEFT, RIGHT = 0, 1
MARKS = 2  # candidates a join may add beside pairs: its two parts, as scaffolds


class State(NamedTuple):
    """What the kernels read and write.

    Attributes:
        text: a guard, the words' bytes end to end, a guard; then the bytes of the entries there were.
        cells: ``[bytes of the words + 2]`` int32. Where a symbol begins: its rank. Where one of several bytes
            ends: ``~rank``. Elsewhere: something negative.
        word_of: ``[cells]`` int32: the word a cell is in; -1 in the guards.
        weights: ``[words]`` int64: how often each occurs.
        table: pairs, see ``pairs.new_table``.
        heap: ``[capacity, 2]`` int64: candidates, some out of date: their count is checked when they come up.
        positions: lists of the cells where pairs begin, each ascending, some out of date.
        origins, lengths: ``[capacity]``: where in ``text`` an entry's bytes are.
        counts: ``[capacity]`` int64: the pair's count then.
        frequencies: ``[capacity]`` int64: how often an entry stands in the words now.
        scaffolds: ``[capacity]`` bool.
        names: open addressing by an entry's bytes, ``[power of 2]`` int32: a rank, or -1.
        barred_names, barred_origins, barred_lengths: the same of what must not be learned.
        changes, sizes, cursors, touched: ``[2, capacity]``: scratch for left and right neighbours, by rank.
        numbers: ``[7]`` int64: entries; those with an id; rows used of the table, the heap, lists; and
            what room the next join asks for.
    """

    text: NDArray[np.uint8]
    cells: NDArray[np.int32]
    word_of: NDArray[np.int32]
    weights: NDArray[np.int64]
    table: NDArray[np.int64]
    heap: NDArray[np.int64]
    positions: NDArray[np.int32]
    origins: NDArray[np.int64]
    lengths: NDArray[np.int32]
    counts: NDArray[np.int64]
    frequencies: NDArray[np.int64]
    scaffolds: NDArray[np.bool_]
    names: NDArray[np.int32]
    barred_names: NDArray[np.int32]
    barred_origins: NDArray[np.int64]
    barred_lengths: NDArray[np.int32]
    changes: NDArray[np.int64]
    sizes: NDArray[np.int32]
    cursors: NDArray[np.int64]
    touched: NDArray[np.int32]
    numbers: NDArray[np.int64]


@njit(cache=True, nogil=True)
def learn(state: State, goal: int, min_frequency: int, first: int, scaffold: bool, pause: int) -> int:
    """Join pairs until ``goal`` entries have an id.

    Args:
        first: rank of the first entry that may become a scaffold.
        pause: joins after which to come back for a report of progress.

    Returns:
        ``DONE``, ``EXHAUSTED`` (no pair is frequent enough), ``PAUSED``, or ``FULL`` (make room, call again).
    """
    numbers, table, heap = state.numbers, state.table, state.heap
    for _ in range(pause):
        if numbers[WITH_ID] >= goal:
            return DONE
        count = _settle(state, min_frequency)
        if count < min_frequency:
            return EXHAUSTED
        key = heap[0, 1]
        if key >= ENTRY:
            state.scaffolds[key - ENTRY] = False
            numbers[WITH_ID] += 1
            numbers[CANDIDATES] = pop(heap, numbers[CANDIDATES])
            continue
        row = slot_of(table, key)
        left, right = key >> SYMBOL_BITS, key & SYMBOL_MASK
        at = _first_place(state, row)
        if at < 0:
            table[row, LENGTH] = 0
            continue
        length = state.lengths[left] + state.lengths[right]
        if (
            _named(state.text, state.barred_names, state.barred_origins, state.barred_lengths, at, length)
            >= 0
        ):
            table[row, LENGTH] = 0
            continue
        made = _named(state.text, state.names, state.origins, state.lengths, at, length)
        again = made >= 0
        room = 2 * table[row, LENGTH] + (2 * _appearances(state, made) if again else 0)
        kinds = min(room, 2 * (numbers[RANKS] + 1))
        if (
            numbers[WRITTEN] + room > len(state.positions)
            or 5 * (numbers[PAIRS] + kinds) > 4 * len(table)
            or numbers[CANDIDATES] + kinds + MARKS > len(heap)
            or numbers[RANKS] == len(state.origins)
        ):
            numbers[NEED_POSITIONS], numbers[NEED_PAIRS] = room, kinds
            return FULL
        numbers[CANDIDATES] = pop(heap, numbers[CANDIDATES])
        if again:
            numbers[WITH_ID] += state.scaffolds[made]
            state.scaffolds[made] = False
        else:
            made = numbers[RANKS]
            state.origins[made], state.lengths[made], state.counts[made] = at, length, count
            _enter_name(state.text, state.names, state.origins, state.lengths, made)
            numbers[RANKS] += 1
            numbers[WITH_ID] += 1
        places = _join(state, row, made)
        if again:
            places = _appear(state, made)
        _enter_neighbours(state, places, made, min_frequency)
        if scaffold:
            next_count = _settle(state, min_frequency)
            _mark(state, left, next_count, first, min_frequency)
            if right != left:
                _mark(state, right, next_count, first, min_frequency)
    return PAUSED


@njit(cache=True, nogil=True)
def _settle(state: State, min_frequency: int) -> int:
    """Bring the true head of the heap to its top; returns its count, 0 if there is none."""
    heap, table = state.heap, state.table
    size = state.numbers[CANDIDATES]
    count = 0
    while size > 0:
        key = heap[0, 1]
        if key >= ENTRY:
            # A scaffold that became an entry by another way has no business here.
            count = state.frequencies[key - ENTRY] if state.scaffolds[key - ENTRY] else 0
        else:
            row = slot_of(table, key)
            count = table[row, COUNT] if table[row, KEY] == key and table[row, LENGTH] > 0 else 0
        if count >= min_frequency and count == heap[0, 0]:
            break
        if count < min_frequency:
            size = pop(heap, size)
        else:
            sink(heap, size, count, key)
    state.numbers[CANDIDATES] = size
    return count if size > 0 else 0


@njit(cache=True, nogil=True)
def _mark(state: State, rank: int, next_count: int, first: int, min_frequency: int) -> None:
    """Make an entry a scaffold if the next candidate is more frequent, and a candidate itself."""
    frequency = state.frequencies[rank]
    if rank < first or state.scaffolds[rank] or frequency >= next_count:
        return
    state.scaffolds[rank] = True
    state.numbers[WITH_ID] -= 1
    if frequency >= min_frequency:
        state.numbers[CANDIDATES] = push(state.heap, state.numbers[CANDIDATES], frequency, ENTRY + rank)


@njit(cache=True, nogil=True)
def _first_place(state: State, row: int) -> int:
    """Where the pair of a row first stands, or -1."""
    pair, start = state.table[row, KEY], state.table[row, START]
    width = state.lengths[pair >> SYMBOL_BITS]
    for index in range(start, start + state.table[row, LENGTH]):
        if stands(state.cells, state.word_of, state.positions[index], width, pair):
            return np.int64(state.positions[index])
    return np.int64(-1)


@njit(cache=True, nogil=True)
def stands(cells: NDArray[np.int32], word_of: NDArray[np.int32], at: int, width: int, pair: int) -> bool:
    """Whether a pair (left << 32 | right) whose left symbol has ``width`` bytes begins at a cell."""
    if cells[at] != pair >> SYMBOL_BITS:
        return False
    after = at + width
    return cells[after] == pair & SYMBOL_MASK and word_of[after] == word_of[at]


@njit(cache=True, nogil=True)
def _touch(changes: NDArray[np.int64], sizes: NDArray[np.int32], side: int, symbol: int, weight: int) -> int:
    """Add to the sum of a neighbour; returns 1 if it is the first of its kind."""
    first = sizes[side, symbol] == 0
    changes[side, symbol] += weight
    sizes[side, symbol] += 1
    return np.int64(first)


@njit(cache=True, nogil=True)
def _join(state: State, row: int, made: int) -> NDArray[np.int32]:
    """Replace a pair by ``made`` everywhere, leftmost first; returns where, ascending.

    The places are written over the pair's own positions, which it needs no more.
    """
    cells, word_of, weights, positions = state.cells, state.word_of, state.weights, state.positions
    changes, sizes, touched = state.changes, state.sizes, state.touched
    pair, start = state.table[row, KEY], state.table[row, START]
    stop = start + state.table[row, LENGTH]
    left, right = pair >> SYMBOL_BITS, pair & SYMBOL_MASK
    joined, total = 0, 0
    lefts, rights = 0, 0
    middle, length = state.lengths[left], state.lengths[left] + state.lengths[right]
    for index in range(start, stop):
        at = positions[index]
        if not stands(cells, word_of, at, middle, pair):
            continue
        word = word_of[at]
        weight = weights[word]
        end = at + length
        cells[at] = made
        cells[at + middle] = ~made
        cells[end - 1] = ~made
        if word_of[at - 1] == word:
            before = cells[at - 1] if cells[at - 1] >= 0 else ~cells[at - 1]
            touched[LEFT, lefts] = before
            lefts += _touch(changes, sizes, LEFT, before, weight)
        if word_of[end] == word:
            touched[RIGHT, rights] = cells[end]
            rights += _touch(changes, sizes, RIGHT, cells[end], weight)
        positions[start + joined] = at
        joined += 1
        total += weight
    state.frequencies[made] += total
    state.frequencies[left] -= total
    state.frequencies[right] -= total
    state.table[row, LENGTH] = 0
    # A symbol at its left took part in (it, left) and takes part in (it, made); likewise at its right. Where
    # `made` is new the table has no pair with it yet, and the second change finds nothing.
    for kind in range(lefts):
        before = np.int64(touched[LEFT, kind])
        add_to(state.table, before << SYMBOL_BITS | left, -changes[LEFT, before])
        add_to(state.table, before << SYMBOL_BITS | made, changes[LEFT, before])
        changes[LEFT, before] = sizes[LEFT, before] = 0
    for kind in range(rights):
        after = np.int64(touched[RIGHT, kind])
        add_to(state.table, right << SYMBOL_BITS | after, -changes[RIGHT, after])
        add_to(state.table, made << SYMBOL_BITS | after, changes[RIGHT, after])
        changes[RIGHT, after] = sizes[RIGHT, after] = 0
    return positions[start : start + joined]


@njit(cache=True, nogil=True)
def _enter_neighbours(state: State, places: NDArray[np.int32], made: int, min_frequency: int) -> None:
    """Enter the pairs of ``made`` with its neighbours, and their positions.

    Args:
        places: every cell where ``made`` begins, ascending.
    """
    cells, word_of, weights, positions = state.cells, state.word_of, state.weights, state.positions
    changes, sizes, touched = state.changes, state.sizes, state.touched
    length = state.lengths[made]
    kinds = np.zeros(2, np.int64)
    # (made, made) is seen from its left one alone, as a right neighbour.
    for at in places:
        word = word_of[at]
        weight = weights[word]
        if word_of[at - 1] == word:
            before = cells[at - 1] if cells[at - 1] >= 0 else ~cells[at - 1]
            if before != made:
                touched[LEFT, kinds[LEFT]] = before
                kinds[LEFT] += _touch(changes, sizes, LEFT, before, weight)
        if word_of[at + length] == word:
            touched[RIGHT, kinds[RIGHT]] = cells[at + length]
            kinds[RIGHT] += _touch(changes, sizes, RIGHT, cells[at + length], weight)
    for side in range(2):
        for kind in range(kinds[side]):
            symbol = np.int64(touched[side, kind])
            key = symbol << SYMBOL_BITS | made if side == LEFT else made << SYMBOL_BITS | symbol
            count = changes[side, symbol]
            row = slot_of(state.table, key)
            if state.table[row, KEY] == key:
                count = state.table[row, COUNT]
            elif count >= min_frequency:
                state.table[row, KEY] = key
                state.table[row, COUNT] = count
                state.numbers[PAIRS] += 1
            else:
                state.cursors[side, symbol] = -1
                continue
            state.table[row, START] = state.cursors[side, symbol] = state.numbers[WRITTEN]
            state.table[row, LENGTH] = sizes[side, symbol]
            state.numbers[WRITTEN] += sizes[side, symbol]
            state.numbers[CANDIDATES] = push(state.heap, state.numbers[CANDIDATES], count, key)
    for at in places:
        word = word_of[at]
        if word_of[at - 1] == word:
            before = cells[at - 1] if cells[at - 1] >= 0 else ~cells[at - 1]
            if before != made and state.cursors[LEFT, before] >= 0:
                positions[state.cursors[LEFT, before]] = at - state.lengths[before]
                state.cursors[LEFT, before] += 1
        if word_of[at + length] == word:
            after = cells[at + length]
            if state.cursors[RIGHT, after] >= 0:
                positions[state.cursors[RIGHT, after]] = at
                state.cursors[RIGHT, after] += 1
    for side in range(2):
        for kind in range(kinds[side]):
            symbol = touched[side, kind]
            changes[side, symbol] = sizes[side, symbol] = 0


@njit(cache=True, nogil=True)
def _appearances(state: State, made: int) -> int:
    """In how many places an entry stands: asked only when a second pair makes the same entry.

    That is rare (not once in 64k merges of 100 MB of English and code), so nothing is kept ready for it. Pairs
    that were too rare to enter may become frequent enough then, hence the whole text is looked through.
    """
    found, at = 0, 1
    while at < len(state.cells) - 1:
        found += state.cells[at] == made
        at += state.lengths[state.cells[at]]
    return found


@njit(cache=True, nogil=True)
def _appear(state: State, made: int) -> NDArray[np.int32]:
    """The places where an entry stands, ascending."""
    places = np.empty(_appearances(state, made), np.int32)
    found, at = 0, 1
    while at < len(state.cells) - 1:
        if state.cells[at] == made:
            places[found] = at
            found += 1
        at += state.lengths[state.cells[at]]
    return places


@njit(cache=True, nogil=True)
def _named(
    text: NDArray[np.uint8],
    names: NDArray[np.int32],
    origins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    at: int,
    length: int,
) -> int:
    """Which entry ``text[at : at + length]`` is, or -1."""
    mask = len(names) - 1
    slot = _hash(text, at, length) & mask
    while names[slot] >= 0:
        name = np.int64(names[slot])
        if lengths[name] == length:
            same = 0
            while same < length and text[origins[name] + same] == text[at + same]:
                same += 1
            if same == length:
                return name
        slot = (slot + 1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def enter_names(
    text: NDArray[np.uint8],
    names: NDArray[np.int32],
    origins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    count: int,
) -> None:
    """Make the first so many entries known by their bytes."""
    for name in range(count):
        _enter_name(text, names, origins, lengths, name)


@njit(cache=True, nogil=True)
def _enter_name(
    text: NDArray[np.uint8],
    names: NDArray[np.int32],
    origins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    name: int,
) -> None:
    """Make an entry known by its bytes."""
    mask = len(names) - 1
    slot = _hash(text, origins[name], lengths[name]) & mask
    while names[slot] >= 0:
        slot = (slot + 1) & mask
    names[slot] = name


@njit(cache=True, nogil=True)
def _hash(text: NDArray[np.uint8], at: int, length: int) -> int:
    """FNV-1a, its high bits folded in."""
    value = np.uint64(0xCBF29CE484222325)
    for index in range(at, at + length):
        value = (value ^ np.uint64(text[index])) * np.uint64(0x100000001B3)
    return np.int64((value ^ (value >> np.uint64(32))) & np.uint64(0x7FFFFFFF))
