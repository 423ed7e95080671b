"""Where a source stands: what of the current epoch is still unread, for any order of sequence lengths.

A source of ``N`` tokens has ``N - 1`` predicted positions (the last token is only ever a label). They are
divided into super-chunks of ``chunk`` positions, visited in a seeded order that differs in every epoch, and a
tail that is shorter. A sequence length ``L`` must divide ``chunk``; a sample reads tokens ``start .. start +
L``, its labels shifted by one.

What is unread is a short list of *lots*: ``count`` super-chunks that stand next to one another in the epoch's
order, all read up to the same ``offset``. A fresh epoch is two lots: all super-chunks, and the tail. Reading
at length ``L`` walks the lots in order, each in windows of ``window`` super-chunks, taking the first ``L``
unread positions of every super-chunk in the window before the second ``L`` of any: so neighbouring samples
come from different super-chunks. Stopping splits one lot into at most four, each again all read up to the
same offset. So a later phase with another length, or a later stage, reads on from there: nothing is read
twice in an epoch. Nothing is lost either but what is shorter than ``L`` at the end of an epoch, which is
returned as ``waste``:

    read tokens + waste + unread = epochs begun x (N - 1)
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.permutation import VECTOR, permutation


@dataclass(frozen=True)
class Universe:
    """What a source consists of, and the seed of its order.

    Attributes:
        name: the source; part of the key of its order.
        tokens: tokens of the source's shard.
        chunk: positions of a super-chunk.
        seed: chooses the order; must stay the same for as long as cursors are carried on.
    """

    name: str
    tokens: int
    chunk: int
    seed: int

    @property
    def positions(self) -> int:
        """Positions with a label: every token but the last."""
        return max(0, self.tokens - 1)

    @property
    def chunks(self) -> int:
        """Whole super-chunks."""
        return self.positions // self.chunk

    @property
    def tail(self) -> int:
        """Positions after the last whole super-chunk."""
        return self.positions % self.chunk

    def fresh(self) -> "tuple[Lot, ...]":
        """The lots of an epoch that has not begun."""
        lots = (Lot(0, self.chunks, 0), Lot(self.chunks, 1 if self.tail else 0, 0))
        return tuple(lot for lot in lots if lot.count)

    def end(self, rank: int) -> int:
        """Positions of the super-chunk at a rank; the rank after the last one is the tail's."""
        return self.tail if rank == self.chunks else self.chunk

    def consumed(self, cursor: "Cursor") -> int:
        """Positions that are read or given up when the source stands at a cursor, over all epochs."""
        unread = sum(lot.count * (self.end(lot.first) - lot.offset) for lot in cursor.lots)
        return (cursor.epoch + 1) * self.positions - unread

    def chunk_at(self, epoch: int, rank: int) -> int:
        """The super-chunk that stands at ``rank`` in an epoch's order. The tail is always last."""
        return rank if rank == self.chunks else permutation(self.chunks, self.seed, self.name, epoch)(rank)

    def chunks_at(self, epoch: int, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """``chunk_at`` of many ranks, none of them the tail's."""
        return permutation(self.chunks, self.seed, self.name, epoch).many(ranks)

    def rank_of(self, epoch: int, chunk: int) -> int:
        """Where a super-chunk stands in an epoch's order: the inverse of ``chunk_at``."""
        return (
            chunk
            if chunk == self.chunks
            else permutation(self.chunks, self.seed, self.name, epoch).inverse(chunk)
        )


@dataclass(frozen=True)
class Lot:
    """``count`` super-chunks at ranks ``first ..`` of an epoch's order, each read up to ``offset``."""

    first: int
    count: int
    offset: int


@dataclass(frozen=True)
class Cursor:
    """How far a source has been read: the epoch, counted from 0, and its unread lots."""

    epoch: int
    lots: tuple[Lot, ...]

    def to_json(self) -> list[object]:
        return [self.epoch, [[lot.first, lot.count, lot.offset] for lot in self.lots]]

    @classmethod
    def from_json(cls, value: list[object]) -> "Cursor":
        epoch, lots = value
        return cls(int(epoch), tuple(Lot(*lot) for lot in lots))  # type: ignore[call-overload, attr-defined]


@dataclass(frozen=True)
class Reader:
    """A source read at one sequence length from a cursor on. Sample ``number`` counts from the cursor.

    Attributes:
        universe: the source.
        cursor: where to begin.
        length: positions per sample; divides the super-chunk.
        window: super-chunks that are interleaved.
    """

    universe: Universe
    cursor: Cursor
    length: int
    window: int

    def _per_chunk(self, lot: Lot) -> int:
        return (self.universe.end(lot.first) - lot.offset) // self.length

    def _capacity(self, lots: Iterable[Lot]) -> int:
        return sum(lot.count * self._per_chunk(lot) for lot in lots)

    def _unread(self, lots: Iterable[Lot]) -> int:
        return sum(lot.count * (self.universe.end(lot.first) - lot.offset) for lot in lots)

    @property
    def rest_of_epoch(self) -> int:
        """Samples before the next epoch begins."""
        return self._capacity(self.cursor.lots)

    @property
    def per_epoch(self) -> int:
        """Samples of a whole epoch at this length."""
        return self._capacity(self.universe.fresh())

    @property
    def unread(self) -> int:
        """Positions of the current epoch not read yet."""
        return self._unread(self.cursor.lots)

    def available(self, max_epochs: int) -> int:
        """Samples before the source would begin epoch number ``max_epochs``, counted from 0; none where it
        stands in that one, or a later one, because it was allowed more before."""
        if self.cursor.epoch >= max_epochs:
            return 0
        return self.rest_of_epoch + (max_epochs - self.cursor.epoch - 1) * self.per_epoch

    def locate(self, number: int) -> tuple[int, int]:
        """``(epoch, start token)`` of a sample."""
        epoch, lots = self.cursor.epoch, self.cursor.lots
        if number >= (rest := self.rest_of_epoch):
            later, number = divmod(number - rest, self.per_epoch)
            epoch, lots = epoch + 1 + later, self.universe.fresh()
        for lot in lots:
            capacity = lot.count * self._per_chunk(lot)
            if number < capacity:
                return epoch, self._start(epoch, lot, number)
            number -= capacity
        raise AssertionError("unreachable: the number is below the sum of the lots' capacities")

    def locate_many(self, numbers: NDArray[np.int64]) -> list[tuple[int, int]]:
        """``locate`` of many samples in any order, vectorised over those of one lot."""
        if len(numbers) < VECTOR:
            return [self.locate(int(number)) for number in numbers]
        epochs, starts = np.empty(len(numbers), dtype=np.int64), np.empty(len(numbers), dtype=np.int64)
        rest, per_epoch = self.rest_of_epoch, self.per_epoch
        later = numbers >= rest
        epochs[:] = self.cursor.epoch
        inside = numbers.copy()
        if later.any():
            more, inside[later] = np.divmod(numbers[later] - rest, per_epoch)
            epochs[later] = self.cursor.epoch + 1 + more
        for epoch in np.unique(epochs).tolist():
            lots = self.cursor.lots if epoch == self.cursor.epoch else self.universe.fresh()
            chosen = np.flatnonzero(epochs == epoch)
            base = 0
            for lot in lots:
                per_chunk = self._per_chunk(lot)
                capacity = lot.count * per_chunk
                mine = chosen[(inside[chosen] >= base) & (inside[chosen] < base + capacity)]
                if len(mine):
                    starts[mine] = self._starts(epoch, lot, inside[mine] - base)
                base += capacity
        return list(zip(epochs.tolist(), starts.tolist()))

    def _starts(self, epoch: int, lot: Lot, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """``_start`` of many samples of one lot."""
        window, inside = np.divmod(numbers, self.window * self._per_chunk(lot))
        width = np.minimum(self.window, lot.count - window * self.window)
        piece, column = np.divmod(inside, width)
        ranks = lot.first + window * self.window + column
        chunks = ranks if lot.first == self.universe.chunks else self.universe.chunks_at(epoch, ranks)
        return chunks * self.universe.chunk + lot.offset + piece * self.length

    def _start(self, epoch: int, lot: Lot, number: int) -> int:
        window, inside = divmod(number, self.window * self._per_chunk(lot))
        width = min(self.window, lot.count - window * self.window)
        piece, column = divmod(inside, width)
        chunk = self.universe.chunk_at(epoch, lot.first + window * self.window + column)
        return chunk * self.universe.chunk + lot.offset + piece * self.length

    def numbers(self, start: int, stop: int, below: int) -> list[int]:
        """The samples, of the first ``below``, that read or predict a token in ``start .. stop - 1``,
        ascending.

        Arithmetic: per epoch and super-chunk touched, the inverse permutation says where it stands.
        """
        found: set[int] = set()
        chunk = self.universe.chunk
        # a sample reads one token past its positions, so the super-chunk before may reach the first token
        touched = range(max(0, start - 1) // chunk, min(stop - 1, self.universe.positions - 1) // chunk + 1)
        rest, per_epoch = self.rest_of_epoch, self.per_epoch
        epochs = [(self.cursor.epoch, self.cursor.lots, 0)]
        if below > rest and per_epoch:
            later = range(-(-(below - rest) // per_epoch))
            fresh = self.universe.fresh()
            epochs += [(self.cursor.epoch + 1 + e, fresh, rest + e * per_epoch) for e in later]
        for epoch, lots, base in epochs:
            for chunk_number in touched:
                rank = self.universe.rank_of(epoch, chunk_number)
                first = base
                for lot in lots:
                    if lot.first <= rank < lot.first + lot.count:
                        begin = chunk_number * chunk + lot.offset
                        pieces = (
                            piece
                            for piece in range(self._per_chunk(lot))
                            if begin + piece * self.length < stop
                            and start <= begin + (piece + 1) * self.length
                        )
                        found.update(first + self._number(lot, rank, piece) for piece in pieces)
                    first += lot.count * self._per_chunk(lot)
        return sorted(number for number in found if number < below)

    def _number(self, lot: Lot, rank: int, piece: int) -> int:
        window, column = divmod(rank - lot.first, self.window)
        width = min(self.window, lot.count - window * self.window)
        return window * self.window * self._per_chunk(lot) + piece * width + column

    def advance(self, samples: int) -> tuple[Cursor, int]:
        """The cursor after ``samples`` more samples, and the positions given up because an epoch ended.

        Raises:
            ValueError: the source has no whole sample of this length.
        """
        rest = self.rest_of_epoch
        if samples <= rest:
            return Cursor(self.cursor.epoch, self._take(self.cursor.lots, samples)), 0
        if not self.per_epoch:
            raise ValueError(f"{self.universe.name} has no whole sample of {self.length} positions")
        later = (samples - rest - 1) // self.per_epoch
        waste = self.unread - rest * self.length
        waste += later * (self.universe.positions - self.per_epoch * self.length)
        lots = self._take(self.universe.fresh(), samples - rest - later * self.per_epoch)
        return Cursor(self.cursor.epoch + 1 + later, lots), waste

    def _take(self, lots: Iterable[Lot], samples: int) -> tuple[Lot, ...]:
        left: list[Lot] = []
        for lot in lots:
            taken = min(samples, lot.count * self._per_chunk(lot))
            samples -= taken
            for piece in self._split(lot, taken) if taken else [lot]:
                last = left[-1] if left else None
                if not piece.count or piece.offset == self.universe.end(piece.first):
                    continue
                adjacent = last and last.first + last.count == piece.first and last.offset == piece.offset
                if last and adjacent and piece.first != self.universe.chunks:  # the tail stays by itself
                    left[-1] = Lot(last.first, last.count + piece.count, last.offset)
                else:
                    left.append(piece)
        return tuple(left)

    def _split(self, lot: Lot, taken: int) -> list[Lot]:
        """What is unread of a lot after ``taken`` samples."""
        per_chunk = self._per_chunk(lot)
        window, inside = divmod(taken, self.window * per_chunk)
        done = min(window * self.window, lot.count)
        width = min(self.window, lot.count - done)
        pieces, columns = divmod(inside, width) if width else (0, 0)
        deep, shallow = (lot.offset + (pieces + 1) * self.length, lot.offset + pieces * self.length)
        return [
            Lot(lot.first, done, lot.offset + per_chunk * self.length),
            Lot(lot.first + done, columns, deep),
            Lot(lot.first + done + columns, width - columns, shallow),
            Lot(lot.first + done + width, lot.count - done - width, lot.offset),
        ]
