"""In which order a source's documents are written, so that training windows hold whole ones.

Training reads a shard in windows of so many tokens. Documents written one after another (*concatenation*) are
cut wherever a window ends. *Best-fit packing* (Ding et al., *Fewer Truncations Improve Language Modeling*,
arXiv 2404.10830) puts documents together that fill a window: from the longest to the shortest, each goes to
the window with the least room that still takes it.

There it leaves windows short and pads them. Here nothing is padded: packing only changes the *order* of the
tokens, so every count of the plan stays what it was. The windows' last gaps are filled with pieces of a few
documents that are cut for it, those first that are longer than a window and so are cut anyway. A longer
document lies in one piece: its full windows, and its remainder at the beginning of a window that others fill.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """What a shard consists of, in its order. Every token of every document is in exactly one piece.

    Attributes:
        document: ``[pieces]``, the number of the document, as its length was given.
        start: ``[pieces]``, the piece's first token, counted in its document.
        tokens: ``[pieces]``, its length.
    """

    document: Integers
    start: Integers
    tokens: Integers


@dataclass(frozen=True)
class Cut:
    """How much of a source is cut: documents that do not lie in one window, and the tokens of those."""

    documents: int
    tokens: int


def concatenate(lengths: Integers) -> Pieces:
    """Whole documents, one after another."""
    return Pieces(np.arange(len(lengths)), np.zeros(len(lengths), np.int64), lengths.astype(np.int64))


def best_fit(lengths: Integers, window: int) -> Pieces:
    """Documents packed into windows; never cuts more of them than ``concatenate``.

    Args:
        lengths: ``[documents]``, tokens of each, at least one, in the seeded order of the source: windows
            come in the order of the documents that open them.
        window: tokens of a window.
    """
    lengths = lengths.astype(np.int64)
    plain = concatenate(lengths)
    packed = _pack(lengths, window)
    fewer = count_cut(packed, lengths, window).documents <= count_cut(plain, lengths, window).documents
    return packed if fewer else plain


def count_cut(pieces: Pieces, lengths: Integers, window: int) -> Cut:
    """What windows of a length cut of documents that lie in these pieces."""
    begins = np.cumsum(pieces.tokens) - pieces.tokens
    across = begins // window != (begins + pieces.tokens - 1) // window
    cut = np.zeros(len(lengths), dtype=bool)
    cut[pieces.document[across | (pieces.tokens < lengths[pieces.document])]] = True
    return Cut(int(cut.sum()), int(lengths[cut].sum()))


def _pack(lengths: Integers, window: int) -> Pieces:
    long = np.flatnonzero(lengths > window)
    rest = lengths[long] % window
    long, rest, exact = long[rest > 0], rest[rest > 0], long[rest == 0]
    short = np.flatnonzero(lengths <= window)
    short = short[np.argsort(-lengths[short], kind="stable")]
    box = _assign(lengths[short], window - rest, window)

    # Boxes are windows being filled: first those that remainders open, then the others.
    boxes = int(max(len(long), box.max(initial=-1) + 1))
    fill, held = np.zeros(boxes, np.int64), np.bincount(box, minlength=boxes)
    fill[: len(long)] = rest
    np.add.at(fill, box, lengths[short])
    full = int(fill.sum()) // window  # as many windows can be full; what the other boxes hold fills them up
    kept = np.zeros(boxes, dtype=bool)
    kept[np.lexsort((-fill, -held))[:full]] = True

    used, first = np.unique(box, return_index=True)
    opener = np.empty(boxes, np.int64)
    opener[used] = short[first]  # its longest: what opens a box must not depend on how many it holds
    opener[: len(long)] = long
    whole = kept[box]  # short documents that stay where they were put
    loose = np.concatenate([long[~kept[: len(long)]], short[~whole]])
    loose_start = np.concatenate([(lengths[long] - rest)[~kept[: len(long)]], np.zeros_like(short[~whole])])
    by_opener = np.flatnonzero(kept)[np.argsort(opener[kept])]
    filling = _fill(loose, loose_start, lengths[loose] - loose_start, window - fill[by_opener])

    # Groups in the order of their openers; in a group the long document, short ones, what fills the gap.
    gap_group = np.append(opener[by_opener], len(lengths))  # the last gap is what follows the last window
    head = np.concatenate([long, exact])
    head_tokens = lengths[head].copy()
    head_tokens[: len(long)] -= np.where(kept[: len(long)], 0, rest)
    group = np.concatenate([head, opener[box[whole]], gap_group[filling.gap]])
    rank = np.repeat([0, 1, 2], [len(head), int(whole.sum()), len(filling.gap)])
    document = np.concatenate([head, short[whole], filling.document])
    start = np.concatenate([np.zeros_like(head), np.zeros_like(short[whole]), filling.start])
    tokens = np.concatenate([head_tokens, lengths[short[whole]], filling.tokens])
    order = np.lexsort((start, document, rank, group))
    return _join(Pieces(document[order], start[order], tokens[order]))


def _join(pieces: Pieces) -> Pieces:
    """Make one piece of neighbours that go on from one another."""
    if not len(pieces.document):
        return pieces
    ends = pieces.start + pieces.tokens
    goes_on = (pieces.document[1:] == pieces.document[:-1]) & (pieces.start[1:] == ends[:-1])
    first = np.flatnonzero(np.append(True, ~goes_on))
    return Pieces(pieces.document[first], pieces.start[first], np.add.reduceat(pieces.tokens, first))


def _assign(sizes: Integers, rooms: Integers, window: int) -> Integers:
    """Best-fit decreasing: the box of each item.

    Documents of equal length are placed together: the box with the least sufficient room takes as many as go
    into it. Which rooms there are is kept as the bits of one integer, whose lowest bit from a length on is
    the best fit.

    Args:
        sizes: ``[items]``, falling, none above ``window``.
        rooms: ``[boxes]``, free tokens of boxes that are open from the beginning.
        window: free tokens of a fresh box.
    """
    box = np.empty(len(sizes), np.int64)
    open_boxes: dict[int, list[Integers]] = {}
    bits, count = 0, len(rooms)

    def put(room: int, boxes: Integers) -> None:
        nonlocal bits
        if room and len(boxes):
            open_boxes.setdefault(room, []).append(boxes)
            bits |= 1 << room

    order = np.argsort(rooms, kind="stable")
    values, firsts = np.unique(rooms[order], return_index=True)
    for room, boxes in zip(values.tolist(), np.split(order, firsts[1:]) if len(order) else []):
        put(room, boxes)
    ends = np.append(np.flatnonzero(np.diff(sizes)) + 1, len(sizes)).tolist()
    at = 0
    for end in ends:
        while at < end:
            size = int(sizes[at])
            fitting = bits >> size
            room = size + (fitting & -fitting).bit_length() - 1 if fitting else window
            each = room // size
            wanted = -(-(end - at) // each)
            if fitting:
                boxes = open_boxes[room].pop()
                if len(boxes) > wanted:
                    open_boxes[room].append(boxes[wanted:])
                    boxes = boxes[:wanted]
                if not open_boxes[room]:
                    bits ^= 1 << room
            else:
                boxes = np.arange(count, count + wanted)
                count += wanted
            placed = min(end - at, each * len(boxes))
            box[at : at + placed] = np.repeat(boxes, each)[:placed]
            put(room - each * size, boxes[: placed // each])
            put(room - placed % each * size, boxes[placed // each :])
            at += placed
    return box


@dataclass(frozen=True)
class _Filling:
    """Pieces that fill gaps: number of the gap, document, start and length of each."""

    gap: Integers
    document: Integers
    start: Integers
    tokens: Integers


def _fill(documents: Integers, starts: Integers, lengths: Integers, gaps: Integers) -> _Filling:
    """Lay documents end to end over the gaps, and over one more that takes all that is left."""
    ends, gap_ends = np.cumsum(lengths), np.cumsum(gaps)
    bounds = np.union1d(ends, gap_ends[gaps > 0])
    begins = np.concatenate([[0], bounds[:-1]]).astype(np.int64)
    if not len(documents):
        begins = bounds = np.empty(0, np.int64)
    item = np.searchsorted(ends, begins, side="right")
    start = starts[item] + begins - (ends[item] - lengths[item])
    return _Filling(np.searchsorted(gap_ends, begins, side="right"), documents[item], start, bounds - begins)
