"""Kernels that lay out counted words for merging, and that make room while it runs."""

import numpy as np
from numpy.typing import NDArray

from tokenizer.kernels import njit
from tokenizer.learning.joining import PAIRS, State, stands
from tokenizer.learning.pairs import COUNT, EMPTY, KEY, LENGTH, START, SYMBOL_BITS, slot_of


@njit(cache=True, nogil=True)
def lay_out(state: State, at: int, first: int, symbols: NDArray[np.int32], ends: NDArray[np.int64]) -> int:
    """Write words, cut into symbols, into cells from ``at`` on; returns the cell behind them.

    Args:
        first: number of the first word.
        symbols, ends: as ``encode_words`` returns them.
    """
    cells, word_of, frequencies = state.cells, state.word_of, state.frequencies
    for word in range(len(ends) - 1):
        for index in range(ends[word], ends[word + 1]):
            symbol = symbols[index]
            end = at + state.lengths[symbol]
            cells[at:end] = ~symbol
            cells[at] = symbol
            word_of[at:end] = first + word
            frequencies[symbol] += state.weights[first + word]
            at = end
    return at


@njit(cache=True, nogil=True)
def count_pairs(state: State, at: int) -> int:
    """Enter the pairs of neighbours from a cell on in the table, until it is four fifths full.

    Returns:
        The cell to go on from; the last one if all is counted.
    """
    cells, word_of, lengths, table = state.cells, state.word_of, state.lengths, state.table
    last = len(cells) - 1
    while at < last and 5 * state.numbers[PAIRS] < 4 * len(table):
        symbol = np.int64(cells[at])
        after = at + lengths[symbol]
        if word_of[after] == word_of[at]:
            key = symbol << SYMBOL_BITS | cells[after]
            row = slot_of(table, key)
            if table[row, KEY] == EMPTY:
                table[row, KEY], table[row, COUNT], table[row, LENGTH] = key, 0, 0
                state.numbers[PAIRS] += 1
            table[row, COUNT] += state.weights[word_of[at]]
            table[row, LENGTH] += 1
        at = after
    return at


@njit(cache=True, nogil=True)
def give_places(table: NDArray[np.int64]) -> int:
    """Give each pair's list its place, one behind the other; returns their length together."""
    written = 0
    for row in range(len(table)):
        if table[row, KEY] != EMPTY:
            table[row, START] = written
            written += table[row, LENGTH]
            table[row, LENGTH] = 0
    return written


@njit(cache=True, nogil=True)
def list_positions(state: State) -> None:
    """Write the position of every pair the table has behind those its list has."""
    cells, word_of, lengths, table = state.cells, state.word_of, state.lengths, state.table
    at = 1
    while at < len(cells) - 1:
        symbol = np.int64(cells[at])
        after = at + lengths[symbol]
        if word_of[after] == word_of[at]:
            key = symbol << SYMBOL_BITS | cells[after]
            row = slot_of(table, key)
            if table[row, KEY] == key:
                state.positions[table[row, START] + table[row, LENGTH]] = at
                table[row, LENGTH] += 1
        at = after


@njit(cache=True, nogil=True)
def compact(state: State, rows: NDArray[np.int64]) -> int:
    """Move the lists together, without what is out of date; returns their length together.

    Args:
        rows: those of the table with a list, ascending by where it starts.
    """
    positions, table = state.positions, state.table
    written = 0
    for row in rows:
        pair, start = table[row, KEY], table[row, START]
        stop = start + table[row, LENGTH]
        width = state.lengths[pair >> SYMBOL_BITS]
        table[row, START] = written
        for index in range(start, stop):
            if stands(state.cells, state.word_of, positions[index], width, pair):
                positions[written] = positions[index]
                written += 1
        table[row, LENGTH] = written - table[row, START]
    return written
