"""Byte-pair merging: extends a vocabulary by the most frequent pairs of neighbours in counted words.

Words are first cut by the vocabulary there is (``tokenizer.encoding.ranks``), then the most frequent pair is
joined everywhere and becomes an entry, until the budget is spent. From bytes this gives the entries that
Hugging Face's ``BpeTrainer`` gives, in its order:

- a pair counts as often as it stands there, overlapping included (``aaa`` has two of ``aa``), and is joined
  leftmost first;
- of pairs equally frequent the one with the lower left rank goes first, then that with the lower right rank;
- a pair whose bytes are an entry already, which never comes up from bytes, is joined in its turn and adds
  nothing.

Scaffold-BPE (arXiv 2404.17808): when a pair is joined, a part that is left less frequent than the next
candidate becomes a scaffold and goes back among the candidates with what is left of its count; if its turn
comes, or another pair makes it, it is an entry again. The bytes and what earlier stages learned cannot become
scaffolds: a stage keeps every earlier entry. Of candidates equally frequent, pairs go before scaffolds.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenizer.encoding.ranks import MOST_RANKS, Ranks, encode_words, ranks_of
from tokenizer.errors import VocabularyError
from tokenizer.learning.joining import (
    CANDIDATES,
    EXHAUSTED,
    FULL,
    MARKS,
    NEED_PAIRS,
    NEED_POSITIONS,
    PAIRS,
    PAUSED,
    RANKS,
    WITH_ID,
    WRITTEN,
    State,
    learn,
)
from tokenizer.learning.layout import compact, count_pairs, give_places, lay_out, list_positions
from tokenizer.learning.names import enter_names
from tokenizer.learning.pairs import (
    COUNT,
    EMPTY,
    ENTRY,
    KEY,
    LENGTH,
    START,
    copy_pairs,
    heap_of,
    new_table,
    push,
)
from tokenizer.learning.words import Words
from tokenizer.vocabulary import Entry, Vocabulary

PAUSE = 1024  # joins between two calls of `progress`
CHUNK = 1 << 18  # words cut at a time by the vocabulary there is
LEAST_PAIRS = 1 << 16  # room for pairs to begin with
MOST_BYTES = (1 << 31) - 4  # positions are int32
MOST_COUNT = (1 << 63) - 1  # counts are int64

# Arrays of the state that have a place for every rank.
BY_RANK = (
    "origins",
    "lengths",
    "counts",
    "frequencies",
    "scaffolds",
    "changes",
    "sizes",
    "cursors",
    "touched",
)


def extend(
    vocabulary: Vocabulary,
    words: Words,
    budget: int,
    *,
    stage: str,
    min_frequency: int = 2,
    scaffold: bool = False,
    barred: Collection[bytes] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """Learn further entries.

    Args:
        vocabulary: what there is; every entry keeps its rank. Scaffolds among them may become entries again.
        words: distinct pre-tokens with counts.
        budget: entries with an id to add, 0 or more.
        stage: name the new entries carry.
        min_frequency: occurrences a pair needs to be joined, 1 or more; ``words.scale`` counts as one.
        scaffold: learn by Scaffold-BPE.
        barred: byte strings that must not become entries, such as those pruned: what makes them stays apart.
        progress: called with entries added and ``budget`` now and then.

    Raises:
        VocabularyError: the words have too few frequent pairs for the budget or are too many, or the budget
            is more than a vocabulary can hold.
    """
    if len(vocabulary.entries) + budget > MOST_RANKS:
        raise VocabularyError(
            f"stage {stage!r} is to learn {budget:,} entries behind {len(vocabulary.entries):,}, but a "
            f"vocabulary has {MOST_RANKS:,} at most. Lower tokenizer.vocab_size."
        )
    least = min(min_frequency * words.scale, MOST_COUNT)
    state = _begin(vocabulary, words, budget, least, barred)
    had, first = len(vocabulary), len(vocabulary.entries)
    while True:
        status = learn(state, had + budget, least, first, scaffold, PAUSE)
        if progress:
            progress(int(state.numbers[WITH_ID]) - had, budget)
        if status == FULL:
            state = _make_room(state, least)
        elif status != PAUSED:
            break
    if status == EXHAUSTED:
        found = int(state.numbers[WITH_ID]) - had
        raise VocabularyError(
            f"stage {stage!r} was to learn {budget:,} entries, but its {len(words):,} distinct words give "
            f"only {found:,} (pairs seen {min_frequency:,} times or more). Add text to the stage, lower its "
            "budget or tokenizer.vocab_size, or lower min_frequency."
        )
    return _result(vocabulary, state, stage, words.scale)


def _result(vocabulary: Vocabulary, state: State, stage: str, scale: int) -> Vocabulary:
    """The vocabulary as the kernels left it."""
    had, ranks = len(vocabulary.entries), int(state.numbers[RANKS])
    scaffolds = state.scaffolds[:ranks].tolist()
    old = [
        entry if entry.scaffold == scaffolds[rank] else replace(entry, scaffold=scaffolds[rank])
        for rank, entry in enumerate(vocabulary.entries)
    ]
    spans = zip(state.origins[had:ranks].tolist(), state.lengths[had:ranks].tolist(), strict=True)
    new = [
        Entry(state.text[at : at + length].tobytes(), stage, (count + scale // 2) // scale, marked)
        for (at, length), count, marked in zip(
            spans, state.counts[had:ranks].tolist(), scaffolds[had:], strict=True
        )
    ]
    return Vocabulary((*old, *new))


def _begin(vocabulary: Vocabulary, words: Words, budget: int, least: int, barred: Collection[bytes]) -> State:
    """Cut the words by the vocabulary, count neighbours, list their positions."""
    size = int(words.offsets[-1])
    if size > MOST_BYTES:
        raise VocabularyError(
            f"the distinct words have {size:,} bytes; merging takes {MOST_BYTES:,} at most. Count less text "
            "(tokenizer.source_bytes), or leave out words seen once."
        )
    had = len(vocabulary.entries)
    known = [*vocabulary.texts, *sorted(set(barred))]
    guard = np.zeros(1, np.uint8)
    text = np.concatenate([guard, words.data, guard, np.frombuffer(b"".join(known), np.uint8)])
    lengths = np.fromiter(map(len, known), np.int32, len(known))
    origins = size + 2 + np.cumsum(lengths, dtype=np.int64) - lengths
    state = State(
        text=text,
        cells=np.full(size + 2, -1, np.int32),
        word_of=np.full(size + 2, -1, np.int32),
        weights=np.require(words.counts, requirements="W"),  # what Arrow owns would compile the kernels again
        table=new_table(LEAST_PAIRS),
        heap=np.empty((0, 2), np.int64),
        positions=np.empty(0, np.int32),
        origins=origins[:had],
        lengths=lengths[:had],
        counts=np.zeros(had, np.int64),
        frequencies=np.zeros(had, np.int64),
        scaffolds=vocabulary.scaffolds.copy(),
        names=np.empty(0, np.int32),
        barred_names=_names(text, origins[had:], lengths[had:], len(known) - had, len(known) - had),
        barred_origins=origins[had:],
        barred_lengths=lengths[had:],
        changes=np.zeros((2, 0), np.int64),
        sizes=np.zeros((2, 0), np.int32),
        cursors=np.zeros((2, 0), np.int64),
        touched=np.zeros((2, 0), np.int32),
        numbers=np.zeros(7, np.int64),
    )
    state.numbers[RANKS], state.numbers[WITH_ID] = had, len(vocabulary)
    state = _more_ranks(state, had + budget)
    _cut(state, ranks_of(vocabulary.texts), words.offsets)
    at = 1
    while (at := count_pairs(state, at)) < size + 1:
        state = _rehash(state, 0, 0)  # twice as large
    state = _rehash(state, least, 0)
    listed = give_places(state.table)
    # Half as much again: how often the lists must be moved together, against memory.
    state = state._replace(positions=np.empty(listed + listed // 2, np.int32))
    list_positions(state)
    state.numbers[WRITTEN] = listed
    return _with_heap(state, least)


def _cut(state: State, ranks: Ranks, offsets: NDArray[np.int64]) -> None:
    """Lay the words out, cut by the vocabulary there is; some at a time, which bounds the memory it takes."""
    data = state.text[1 : 1 + offsets[-1]]
    at = 1
    for first in range(0, len(offsets) - 1, CHUNK):
        symbols, ends = encode_words(ranks, data, offsets[first : first + CHUNK + 1])
        at = lay_out(state, at, first, symbols, ends)


def _make_room(state: State, least: int) -> State:
    """Drop what is out of date where the next join finds no room, and enlarge what is still too small."""
    numbers = state.numbers
    if int(numbers[RANKS]) == len(state.origins):
        state = _more_ranks(state, len(state.origins) + len(state.origins) // 4)
    state = _rehash(state, least, int(numbers[NEED_PAIRS]))
    if numbers[WRITTEN] + numbers[NEED_POSITIONS] > len(state.positions):
        state = _compacted(state)
    if numbers[CANDIDATES] + numbers[NEED_PAIRS] + MARKS > len(state.heap):
        state = _with_heap(state, least)
    return state


def _compacted(state: State) -> State:
    """Lists of positions moved together, with room for as many as the next join asks for."""
    rows = np.flatnonzero((state.table[:, KEY] != EMPTY) & (state.table[:, LENGTH] > 0))
    rows = rows[np.argsort(state.table[rows, START])]
    written = compact(state, rows)
    state.numbers[WRITTEN] = written
    needed = written + int(state.numbers[NEED_POSITIONS])
    if 5 * needed > 4 * len(state.positions):
        positions = np.empty(needed + needed // 2, np.int32)
        positions[:written] = state.positions[:written]
        state = state._replace(positions=positions)
    return state


def _rehash(state: State, least: int, extra: int) -> State:
    """A table without pairs that are too rare by now, with room for so many others."""
    old = state.table
    kept = int(np.count_nonzero((old[:, KEY] != EMPTY) & (old[:, COUNT] >= least) & (old[:, LENGTH] > 0)))
    table = new_table(kept + extra)
    state.numbers[PAIRS] = copy_pairs(old, table, least)
    return state._replace(table=table)


def _with_heap(state: State, least: int) -> State:
    """The candidates anew: every pair that has positions, and every scaffold."""
    scaffolds = np.flatnonzero(state.scaffolds)
    scaffolds = scaffolds[state.frequencies[scaffolds] >= least]
    candidates = int(state.numbers[PAIRS]) + len(scaffolds)
    room = max(int(state.numbers[NEED_PAIRS]) + MARKS, candidates // 2, LEAST_PAIRS)
    heap = np.empty((candidates + room, 2), np.int64)
    size = heap_of(state.table, heap)
    for rank in scaffolds.tolist():
        size = push(heap, size, int(state.frequencies[rank]), ENTRY + rank)
    state.numbers[CANDIDATES] = size
    return state._replace(heap=heap)


def _more_ranks(state: State, capacity: int) -> State:
    """Room for more entries."""

    def longer(array: NDArray[np.generic]) -> NDArray[np.generic]:
        padding = [(0, 0)] * (array.ndim - 1) + [(0, capacity - array.shape[-1])]
        return np.pad(array, padding)

    state = state._replace(**{name: longer(getattr(state, name)) for name in BY_RANK})
    ranks = int(state.numbers[RANKS])
    return state._replace(names=_names(state.text, state.origins, state.lengths, ranks, capacity))


def _names(
    text: NDArray[np.uint8], origins: NDArray[np.int64], lengths: NDArray[np.int32], count: int, room: int
) -> NDArray[np.int32]:
    """A table to find entries in by their bytes, at most half full with ``room`` of them."""
    names = np.full(1 << max((2 * room - 1).bit_length(), 4), -1, np.int32)
    enter_names(text, names, origins, lengths, count)
    return names
