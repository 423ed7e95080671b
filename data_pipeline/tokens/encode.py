"""Documents to tokens, batch by batch.

A document is the tokens of its text and ``<|end_of_text|>``; control tokens that occur in the text are
encoded as ordinary text. A conversation (a row with ``messages``) is rendered by the chat template, which
brings its own ``<|begin_of_text|>`` and ends every answer; an end is added only where there is none.

A batch becomes two files in the scratch folder: its tokens, and an Arrow table of what is known of each
document. ``Encoded`` reads a source's batches as one, in any order, with no more in memory than a few
integers per document.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.tokens.shards import token_dtype
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import write_atomic
from tokenizer.chat import render
from tokenizer.load import encode_text, load, token_bytes
from tokenizer.specials import END_OF_TEXT
from tokenizer.vocabulary import VOCABULARY_FILE

Ids = Sequence[int] | NDArray[np.int32]
FACTS = ("id", "origin", "cluster", "decisions", "split")
ROWS_AT_A_TIME = 64  # texts a worker holds in memory


@dataclass(frozen=True)
class Job:
    """Rows ``start .. stop - 1`` of one documents file, and where their tokens go."""

    documents: Path
    start: int
    stop: int
    tokenizer: Path
    output: Path

    @property
    def done(self) -> Path:
        """The file that is written last."""
        return Path(f"{self.output}.arrow")


@cache
def vocabulary(folder: Path) -> tuple[Any, NDArray[np.int64]]:
    """The tokenizer of a folder, and how many bytes each of its ids stands for, ``[vocab_size]``."""
    tokenizer = load(folder)
    return tokenizer, np.array([len(text) for text in token_bytes(tokenizer)], dtype=np.int64)


@cache
def plain_encoder(folder: Path) -> Callable[[Sequence[str]], Sequence[Ids]]:
    """What encodes ordinary text with the tokenizer of a folder, ``<artifact>/hf``.

    Ours where the artifact keeps its vocabulary, several times as fast; else Hugging Face's. Where both can,
    they give the same ids.
    """
    if (folder.parent / VOCABULARY_FILE).is_file():
        from tokenizer.encoding.encoder import Encoder  # imports Numba

        return Encoder.load(folder.parent, threads=1).encode_batch  # the workers are processes
    return partial(encode_text, vocabulary(folder)[0])


def encode(
    tokenizer: Any, plain: Callable[[Sequence[str]], Sequence[Ids]], rows: Iterable[dict[str, Any]]
) -> Iterator[Ids]:
    """The tokens of each document, its end included.

    Args:
        tokenizer: what ``tokenizer.load.load`` returns; renders conversations.
        plain: ``plain_encoder`` of the same folder.
        rows: documents with ``text``, and ``messages`` (JSON) where it is a conversation.

    Raises:
        StemmaError: a conversation is not what the chat template takes; names the document.
    """
    documents = list(rows)
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    texts = iter(plain([row["text"] for row in documents if not row.get("messages")]))
    for row in documents:
        if not row.get("messages"):
            yield np.append(np.asarray(next(texts), np.int32), end)
            continue
        try:
            conversation = json.loads(row["messages"])
            ids = render(tokenizer, conversation["messages"], conversation.get("tools")).ids
        except (ValueError, KeyError, TypeError, StemmaError) as error:
            raise StemmaError(
                f"document {row['id']} ({row['origin']}): its messages cannot be rendered: {error}"
            ) from error
        yield ids if ids and ids[-1] == end else [*ids, end]


def read_documents(
    path: Path, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
) -> pa.Table:
    """Rows of a documents file; only the row groups they lie in are read.

    Raises:
        DamagedError: it is not readable Parquet, or lacks a column.
    """
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        wanted = tuple(name for name in names if columns is None or name in columns)
        stop = file.metadata.num_rows if stop is None else stop
        groups, first, base = [], None, 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if base < stop and start < base + rows:
                first = base if first is None else first
                groups.append(group)
            base += rows
        return _row_groups(path, tuple(groups), wanted).slice(start - (first or 0), stop - start)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error


@lru_cache(maxsize=2)
def _row_groups(path: Path, groups: tuple[int, ...], columns: tuple[str, ...]) -> pa.Table:
    """Row groups of a file, kept because the next batch mostly lies in the same one."""
    return pq.ParquetFile(path).read_row_groups(list(groups), columns=list(columns))


def encode_batch(job: Job) -> int:
    """Encode a job's rows: ``<output>.tokens`` first, then ``<output>.arrow``, which marks it done.

    Returns:
        how many documents it holds.
    """
    tokenizer, sizes = vocabulary(job.tokenizer)
    dtype = token_dtype(len(sizes))
    columns = ("text", "messages", *FACTS)
    plain = plain_encoder(job.tokenizer)
    encoded, facts = [], []
    for start in range(job.start, job.stop, ROWS_AT_A_TIME):
        table = read_documents(job.documents, columns, start, min(start + ROWS_AT_A_TIME, job.stop))
        encoded += [np.array(ids, dtype=dtype) for ids in encode(tokenizer, plain, table.to_pylist())]
        facts.append(table.select(FACTS))
    table = pa.concat_tables(facts)
    table = table.append_column("tokens", pa.array([len(ids) for ids in encoded], pa.int64()))
    table = table.append_column("bytes", pa.array([int(sizes[ids].sum()) for ids in encoded], pa.int64()))
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    write_atomic(Path(f"{job.output}.tokens"), b"".join(ids.tobytes() for ids in encoded))
    write_atomic(job.done, buffer.getvalue())
    return len(encoded)


class Encoded:
    """The encoded batches of one source, as if they were one. Rows count as in its documents files.

    Args:
        outputs: the ``output`` of every job, in the order of their rows.
        dtype: of the tokens.

    Attributes:
        lengths: ``[documents]``, tokens of each.
        bytes: ``[documents]``, bytes of text of each.
        splits: ``[documents]`` int8, number of each one's split in ``split_names``.
        split_names: as they are met.
    """

    def __init__(self, outputs: Sequence[Path], dtype: type[np.generic]) -> None:
        self.outputs = tuple(outputs)
        self._page = lru_cache(maxsize=1024)(partial(_page, dtype=dtype))
        self._table = lru_cache(maxsize=64)(_table)  # each holds a file open
        numbers, splits = [], []
        self.split_names: list[str] = []
        for output in self.outputs:
            table = self._table(output)
            numbers.append(np.stack([table.column(name).to_numpy() for name in ("tokens", "bytes")]))
            found = pc.unique(table.column("split")).to_pylist()
            self.split_names += sorted(set(found) - set(self.split_names))
            codes = pc.index_in(table.column("split"), value_set=pa.array(self.split_names))
            splits.append(codes.to_numpy().astype(np.int8))
        self.lengths, self.bytes = np.concatenate(numbers, axis=1)
        self.splits = np.concatenate(splits)
        sizes = [len(codes) for codes in splits]
        self._firsts = np.cumsum([0, *sizes])  # first row of each batch
        ends = np.cumsum(self.lengths)
        before = np.concatenate([[0], ends])[self._firsts[:-1]]  # tokens of the batches before
        self._offsets = ends - self.lengths - np.repeat(before, sizes)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.lengths)

    def tokens(self, row: int, start: int, count: int) -> NDArray[Any]:
        """``count`` tokens of a document from its token ``start`` on."""
        batch = int(np.searchsorted(self._firsts, row, side="right")) - 1
        first = int(self._offsets[row]) + start
        return self._page(self.outputs[batch])[first : first + count]

    def facts(self, rows: NDArray[np.int64]) -> pa.Table:
        """What is known of these documents, in this order: the columns of ``FACTS``."""
        if not len(rows):
            return self._table(self.outputs[0]).select(FACTS).slice(0, 0)
        batches = np.searchsorted(self._firsts, rows, side="right") - 1
        order = np.argsort(batches, kind="stable")
        found, firsts = np.unique(batches[order], return_index=True)
        parts = [
            self._table(self.outputs[batch]).select(FACTS).take(pa.array(rows[mine] - self._firsts[batch]))
            for batch, mine in zip(found.tolist(), np.split(order, firsts[1:]))
        ]
        return pa.concat_tables(parts).combine_chunks().take(pa.array(np.argsort(order)))

    def ids(self) -> Iterator[list[str]]:
        """The ids of all documents in order, batch by batch."""
        for output in self.outputs:
            yield self._table(output).column("id").to_pylist()


def _page(output: Path, dtype: type[np.generic]) -> NDArray[Any]:
    """A batch's tokens, memory-mapped; an empty file cannot be."""
    path = Path(f"{output}.tokens")
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def _table(output: Path) -> pa.Table:
    """A batch's facts, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(f"{output}.arrow")).read_all()
