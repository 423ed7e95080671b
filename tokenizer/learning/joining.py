"""The kernels of merging: join the most frequent pair everywhere, again and again.

What makes it fast: the words lie end to end in one array, a cell a byte, in which a neighbour is found by
arithmetic; each pair has the list of its positions, written once when the pair comes up; counts of neighbours
are summed in arrays indexed by symbol, so the hash table is asked once per kind of neighbour; and a pair that
comes up too rarely to be joined is never entered.

All of that rests on pairs never growing once they have come up: all occurrences of a pair come up with the
join that makes the younger of its symbols, and an entry is made by one pair alone, once. For the symbols
between two boundaries depend on the bytes there alone: neither joining one pair everywhere, leftmost first,
nor the rule of ``tokenizer.encoding`` looks beyond boundaries that stay. So wherever an entry is about to be
made, it is made of the same pair. A vocabulary that was pruned or published may have an entry that no text
came to, until a pair is learned that makes it; that pair then adds nothing, but by the same argument the
entry had no neighbours before.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenizer.kernels import njit
from tokenizer.learning.names import enter_name, named
from tokenizer.learning.pairs import (
    COUNT,
    ENTRY,
    KEY,
    LENGTH,
    START,
    SYMBOL_BITS,
    SYMBOL_MASK,
    add_to,
    inner,
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
    """What the kernels read and write: words, pairs, entries, and how full the arrays are.

    The words ``ab`` and ``xyz``, the latter cut into ``x`` and ``yz``, with ranks for bytes:

        text      .   a   b   x   y   z   .   and the entries' bytes
        cells    -1   a   b   x  yz ~yz  -1
        word_of  -1   0   0   1   1   1  -1

    So what follows a symbol is its length further on, and what precedes one is read off the cell before it.
    A symbol of three bytes or more has anything negative between its first cell and its last.

    Attributes:
        text: a guard, the words' bytes end to end, a guard; then the bytes of the entries there were.
        cells: ``[bytes of the words + 2]`` int32. Where a symbol begins: its rank. Where one of several bytes
            ends: ``~rank``. Elsewhere: something negative.
        word_of: ``[cells]`` int32: the word a cell is in; -1 in the guards, which are no word's neighbours.
        weights: ``[words]`` int64: how often each occurs.
        table: pairs, see ``pairs.new_table``.
        heap: ``[capacity, 2]`` int64: candidates, some out of date: their count is checked when they come up.
        positions: lists of the cells where pairs begin, each ascending, some out of date.
        origins, lengths: ``[capacity]``: where in ``text`` an entry's bytes are; here and below by rank, with
            room for entries to come.
        counts: ``[capacity]`` int64: how often the pair an entry was made of stood there when it was joined.
        frequencies: ``[capacity]`` int64: how often an entry stands in the words now.
        scaffolds: ``[capacity]`` bool.
        names: the entries by their bytes, see ``names``.
        barred_names, barred_origins, barred_lengths: the same of what must not be learned.
        changes, sizes: ``[2, capacity]``: scratch of a join, for left and right neighbours by rank: how often
            they stand there, weighted and plain. All 0 between joins.
        touched: ``[2, capacity]`` int32: the neighbours that have such sums, end to end.
        cursors: ``[2, capacity]`` int64: where their next position is written, -1 if it is not.
        numbers: ``[7]`` int64, places see above: entries (``RANKS``), those with an id, rows of the table
            that are taken, candidates in the heap, positions written; and how many positions and pairs the
            join that found no room may add.
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
def learn(state: State, goal: int, least: int, first: int, scaffold: bool, pause: int) -> int:
    """Join pairs until ``goal`` entries have an id.

    Args:
        least: occurrences a pair needs, times the words' scale.
        first: rank of the first entry that may become a scaffold.
        pause: joins after which to come back for a report of progress.

    Returns:
        ``DONE``, ``EXHAUSTED`` (no pair is frequent enough), ``PAUSED``, or ``FULL`` (make room, call again).
    """
    numbers, table, heap = state.numbers, state.table, state.heap
    for _ in range(pause):
        if numbers[WITH_ID] >= goal:
            return DONE
        count = _settle(state, least)
        if count < least:
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
        length = state.lengths[left] + state.lengths[right]
        made = named(state.text, state.names, state.origins, state.lengths, at, length)
        again = made >= 0
        room = 2 * table[row, LENGTH]
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
            enter_name(state.text, state.names, state.origins, state.lengths, made)
            numbers[RANKS] += 1
            numbers[WITH_ID] += 1
        _enter_neighbours(state, _join(state, row, made), made, least)
        if scaffold:
            next_count = _settle(state, least)
            _mark(state, left, next_count, first, least)
            if right != left:
                _mark(state, right, next_count, first, least)
    return PAUSED


@inner
def _settle(state: State, least: int) -> int:
    """Bring the true head of the heap to its top; returns its count, 0 if there is none."""
    heap, table = state.heap, state.table
    size = state.numbers[CANDIDATES]
    count = np.int64(0)
    while size > 0:
        key = heap[0, 1]
        if key >= ENTRY:
            # A scaffold that another pair made an entry again has no business here.
            count = state.frequencies[key - ENTRY] if state.scaffolds[key - ENTRY] else 0
        else:
            row = slot_of(table, key)
            count = table[row, COUNT] if table[row, KEY] == key and table[row, LENGTH] > 0 else 0
            if count >= least and count == heap[0, 0] and _barred(state, row):
                table[row, LENGTH] = count = 0
        if count < least:
            size = pop(heap, size)
        elif count < heap[0, 0]:
            sink(heap, size, count, key)
        else:
            break
    state.numbers[CANDIDATES] = size
    return count if size > 0 else 0


@inner
def _barred(state: State, row: int) -> bool:
    """Whether the pair of a row makes what must not be learned."""
    if len(state.barred_origins) == 0:
        return False
    pair = state.table[row, KEY]
    length = state.lengths[pair >> SYMBOL_BITS] + state.lengths[pair & SYMBOL_MASK]
    names, origins, lengths = state.barred_names, state.barred_origins, state.barred_lengths
    return named(state.text, names, origins, lengths, _first_place(state, row), length) >= 0


@inner
def _mark(state: State, rank: int, next_count: int, first: int, least: int) -> None:
    """Make an entry a scaffold if the next candidate is more frequent, and a candidate itself."""
    frequency = state.frequencies[rank]
    if rank < first or state.scaffolds[rank] or frequency >= next_count:
        return
    state.scaffolds[rank] = True
    state.numbers[WITH_ID] -= 1
    if frequency >= least:
        state.numbers[CANDIDATES] = push(state.heap, state.numbers[CANDIDATES], frequency, ENTRY + rank)


@inner
def _first_place(state: State, row: int) -> int:
    """Where the pair of a row first stands. A pair that has a count stands somewhere."""
    pair, index = state.table[row, KEY], state.table[row, START]
    width = state.lengths[pair >> SYMBOL_BITS]
    while not stands(state.cells, state.word_of, state.positions[index], width, pair):
        index += 1
    return np.int64(state.positions[index])


@inner
def stands(cells: NDArray[np.int32], word_of: NDArray[np.int32], at: int, width: int, pair: int) -> bool:
    """Whether a pair (left << 32 | right) whose left symbol has ``width`` bytes begins at a cell."""
    if cells[at] != pair >> SYMBOL_BITS:
        return False
    after = at + width
    return cells[after] == pair & SYMBOL_MASK and word_of[after] == word_of[at]


@inner
def symbol_before(cells: NDArray[np.int32], at: int) -> int:
    """The symbol that ends before a cell where one begins."""
    cell = np.int64(cells[at - 1])
    return cell if cell >= 0 else ~cell


@inner
def _touch(
    changes: NDArray[np.int64],
    sizes: NDArray[np.int32],
    touched: NDArray[np.int32],
    side: int,
    kinds: int,
    symbol: int,
    weight: int,
) -> int:
    """Add to the sum of a neighbour; returns how many kinds of neighbours there are by now."""
    if sizes[side, symbol] == 0:
        touched[side, kinds] = symbol
        kinds += 1
    changes[side, symbol] += weight
    sizes[side, symbol] += 1
    return kinds


@inner
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
            before = symbol_before(cells, at)
            lefts = _touch(changes, sizes, touched, LEFT, lefts, before, weight)
        if word_of[end] == word:
            rights = _touch(changes, sizes, touched, RIGHT, rights, cells[end], weight)
        positions[start + joined] = at
        joined += 1
        total += weight
    state.frequencies[made] += total
    state.frequencies[left] -= total
    state.frequencies[right] -= total
    state.table[row, LENGTH] = 0
    for kind in range(lefts):
        before = np.int64(touched[LEFT, kind])
        add_to(state.table, before << SYMBOL_BITS | left, -changes[LEFT, before])
        changes[LEFT, before] = sizes[LEFT, before] = 0
    for kind in range(rights):
        after = np.int64(touched[RIGHT, kind])
        add_to(state.table, right << SYMBOL_BITS | after, -changes[RIGHT, after])
        changes[RIGHT, after] = sizes[RIGHT, after] = 0
    return positions[start : start + joined]


@inner
def _enter_neighbours(state: State, places: NDArray[np.int32], made: int, least: int) -> None:
    """Enter the pairs of ``made`` with its neighbours, and their positions.

    Args:
        places: the cells where ``made`` begins, ascending.
    """
    cells, word_of, positions, table = state.cells, state.word_of, state.positions, state.table
    changes, sizes, cursors, touched = state.changes, state.sizes, state.cursors, state.touched
    numbers, length = state.numbers, state.lengths[made]
    lefts, rights = 0, 0
    # (made, made) is seen from the first of the two, as its right neighbour.
    for at in places:
        word = word_of[at]
        weight = state.weights[word]
        if word_of[at - 1] == word:
            before = symbol_before(cells, at)
            if before != made:
                lefts = _touch(changes, sizes, touched, LEFT, lefts, before, weight)
        if word_of[at + length] == word:
            rights = _touch(changes, sizes, touched, RIGHT, rights, cells[at + length], weight)
    for side in range(2):
        for kind in range(lefts if side == LEFT else rights):
            symbol = np.int64(touched[side, kind])
            count = changes[side, symbol]
            cursors[side, symbol] = -1
            if count >= least:
                key = symbol << SYMBOL_BITS | made if side == LEFT else made << SYMBOL_BITS | symbol
                row = slot_of(table, key)
                table[row, KEY], table[row, COUNT] = key, count
                table[row, START], table[row, LENGTH] = numbers[WRITTEN], sizes[side, symbol]
                cursors[side, symbol] = numbers[WRITTEN]
                numbers[WRITTEN] += sizes[side, symbol]
                numbers[PAIRS] += 1
                numbers[CANDIDATES] = push(state.heap, numbers[CANDIDATES], count, key)
            changes[side, symbol] = sizes[side, symbol] = 0
    for at in places:
        word = word_of[at]
        if word_of[at - 1] == word:
            before = symbol_before(cells, at)
            if before != made:
                _write(positions, cursors, LEFT, before, at - state.lengths[before])
        if word_of[at + length] == word:
            _write(positions, cursors, RIGHT, cells[at + length], at)


@inner
def _write(
    positions: NDArray[np.int32], cursors: NDArray[np.int64], side: int, symbol: int, place: int
) -> None:
    """Add to the list of a pair, if it was entered."""
    if cursors[side, symbol] >= 0:
        positions[cursors[side, symbol]] = place
        cursors[side, symbol] += 1
