"""Words and counts in sorted Arrow files, and walking through many of them at once.

A file is Arrow IPC with the columns ``word`` (large_binary, ascending and distinct) and ``count`` (int64), in
record batches whose borders follow from the rows alone: equal words make equal bytes.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stemma.core.errors import DamagedError
from stemma.core.files import sync_folder
from tokenizer.learning.words import Words

BATCH_ROWS = 1 << 15
ROWS_AT_ONCE, LEAST_ROWS = 1 << 19, 256  # of all files together, and of each, while they are walked through
_SCHEMA = pa.schema([pa.field("word", pa.large_binary(), False), pa.field("count", pa.int64(), False)])
_TEXT_BYTES = b"text_bytes"


@dataclass(frozen=True)
class Stretch:
    """Consecutive words of several files.

    Attributes:
        words: ``[rows]`` large_binary; equal ones stand together, in the order of their files.
        counts: ``[rows]`` int64.
        files: ``[rows]`` int64, number of the file of each.
    """

    words: pa.LargeBinaryArray
    counts: NDArray[np.int64]
    files: NDArray[np.int64]

    def firsts(self) -> NDArray[np.int64]:
        """Rows where another word begins than the one before, ``[distinct words]``."""
        changes = pc.not_equal(self.words[1:], self.words[:-1]).to_numpy(zero_copy_only=False)
        return np.flatnonzero(np.concatenate([[True], changes]))


def to_arrow(words: Words) -> pa.LargeBinaryArray:
    """The words alone, without copying them."""
    buffers = [None, pa.py_buffer(words.offsets), pa.py_buffer(words.data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(words), buffers)


def from_arrow(words: pa.LargeBinaryArray, counts: NDArray[np.int64], scale: int = 1) -> Words:
    """``Words`` of what is sorted and distinct already."""
    if not len(words):
        return Words(np.empty(0, np.uint8), np.zeros(1, np.int64), np.empty(0, np.int64), scale)
    _, offsets, data = words.buffers()
    borders = np.frombuffer(offsets, np.int64)[words.offset : words.offset + len(words) + 1]
    text = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    return Words(text[borders[0] : borders[-1]], borders - borders[0], counts, scale)


def sort_words(data: NDArray[np.uint8], offsets: NDArray[np.int64], counts: NDArray[np.int64]) -> Words:
    """``Words`` of distinct words in any order."""
    words = to_arrow(Words(data, offsets, counts))
    order = pc.sort_indices(words)
    return from_arrow(words.take(order), counts[order.to_numpy()])


def write_words(path: Path, parts: Iterable[Words], text_bytes: int) -> None:
    """Write words in order, atomically.

    Args:
        path: of the file; its folder is there.
        parts: consecutive words, at most a few hundred thousand at a time.
        text_bytes: of the text they are cut from, which the file states in its schema.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    schema = _SCHEMA.with_metadata({_TEXT_BYTES: str(text_bytes)})
    try:
        with open(temporary, "wb") as handle:
            with pa.ipc.new_file(handle, schema) as writer:
                rest = schema.empty_table()
                for part in parts:
                    columns = [to_arrow(part), pa.array(part.counts)]
                    rest = pa.concat_tables([rest, pa.table(columns, schema=schema)])
                    whole = len(rest) - len(rest) % BATCH_ROWS
                    writer.write_table(rest[:whole].combine_chunks(), BATCH_ROWS)
                    rest = rest[whole:]
                writer.write_table(rest.combine_chunks(), BATCH_ROWS)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def text_bytes(path: Path) -> int:
    """Bytes of the text that a file's words are cut from.

    Raises:
        DamagedError: it is no file of words.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return int(pa.ipc.open_file(source).schema.metadata[_TEXT_BYTES])
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors derive from these
        raise DamagedError(f"{path} is no file of counted words ({error}). It was left as it is.") from error


def read_words(path: Path) -> Words:
    """A whole file.

    Raises:
        DamagedError: it is no file of words.
    """
    return summed([path])


def walk(paths: Sequence[Path]) -> Iterator[Stretch]:
    """Go through sorted files side by side; a word is in one stretch with all its rows.

    Memory: half a million rows, however large the files are and however many.

    Raises:
        DamagedError: one is no file of words.
    """
    rows = max(ROWS_AT_ONCE // max(len(paths), 1), LEAST_ROWS)
    cursors = [_Cursor(number, path, rows) for number, path in enumerate(paths)]
    while cursors := [cursor for cursor in cursors if cursor.fill()]:
        # What comes up to the last word of the window that ends first is all there is of it.
        bounds = [cursor.last for cursor in cursors if cursor.more]
        bound = min(bounds) if bounds else None
        taken = [(cursor, cursor.take(bound)) for cursor in cursors]
        words = pa.concat_arrays([batch["word"] for _, batch in taken])
        counts = np.concatenate([batch["count"].to_numpy() for _, batch in taken])
        files = np.repeat([cursor.number for cursor, _ in taken], [len(batch) for _, batch in taken])
        if len(taken) > 1:
            order = pc.sort_indices(words)  # stable
            words, counts, files = words.take(order), counts[order.to_numpy()], files[order.to_numpy()]
        yield Stretch(words, counts, files)


def summed(paths: Sequence[Path]) -> Words:
    """Words of several files together, counts added, in memory."""
    return joined(list(sums(paths)))


def sums(paths: Sequence[Path]) -> Iterator[Words]:
    """Words of several files together, counts added, a stretch at a time."""
    for stretch in walk(paths):
        firsts = stretch.firsts()
        yield from_arrow(stretch.words.take(pa.array(firsts)), np.add.reduceat(stretch.counts, firsts))


def joined(parts: Sequence[Words]) -> Words:
    """Consecutive ``Words`` as one."""
    if not parts:
        return Words.of({})
    ends = np.cumsum([0, *(len(part.data) for part in parts)])
    offsets = [part.offsets[1:] + end for part, end in zip(parts, ends)]
    return Words(
        np.concatenate([part.data for part in parts]),
        np.concatenate([[0], *offsets]),
        np.concatenate([part.counts for part in parts]),
        parts[0].scale,
    )


class _Cursor:
    """A place in a file: a window of at most ``rows`` rows that moves on."""

    def __init__(self, number: int, path: Path, rows: int) -> None:
        self.number = number
        self._path = path
        self._rows = rows
        self._next = 0  # batch to read
        self._batch: pa.RecordBatch | None = None  # what is left of the batch before
        self._batches = 1

    def fill(self) -> bool:
        """Have a window; False at the end of the file."""
        while not self._batch and self._next < self._batches:
            self._batch = self._read(self._next)
            self._next += 1
        return bool(self._batch)

    @property
    def more(self) -> bool:
        """Whether there is something behind the window."""
        return len(self._left) > self._rows or self._next < self._batches

    @property
    def last(self) -> bytes:
        """The window's last word."""
        return self._word(min(len(self._left), self._rows) - 1)

    def take(self, bound: bytes | None) -> pa.RecordBatch:
        """Take the window's rows up to the word ``bound``, or all."""
        window = min(len(self._left), self._rows)
        low, high = 0, window
        while bound is not None and low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._word(middle) <= bound else (low, middle)
        cut = window if bound is None else low
        taken, self._batch = self._left[:cut], self._left[cut:]
        return taken

    @property
    def _left(self) -> pa.RecordBatch:
        assert self._batch is not None
        return self._batch

    def _word(self, row: int) -> bytes:
        word: bytes = self._left["word"][row].as_py()
        return word

    def _read(self, number: int) -> pa.RecordBatch:
        """Map one batch; no file is kept open, for there may be more of them than a process may open."""
        try:
            with pa.memory_map(str(self._path)) as source:
                reader = pa.ipc.open_file(source)
                if not reader.schema.equals(_SCHEMA):
                    raise DamagedError(
                        f"{self._path} has the columns {reader.schema.names}, not word and count"
                    )
                self._batches = reader.num_record_batches
                return reader.get_batch(number) if self._batches else None
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise DamagedError(f"{self._path} is not readable ({error}). It was left as it is.") from error
