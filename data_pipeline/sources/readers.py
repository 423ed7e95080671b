"""Formats: how the bytes of a file become texts.

A reader takes a stream and yields ``Item`` values. What cannot be read (broken UTF-8, a line that is no JSON)
is an item too, with the rule it broke, so that it is counted among the rejects and not lost. Formats with
more to say have a file of their own; the table of all is at the end.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import orjson

from data_pipeline.sources import factbook, hypertext, markup, notebooks, pydoc, source_code, warc, wikitext
from data_pipeline.sources.item import (
    MAX_LINE_BYTES,
    SHOWN_BYTES,
    Item,
    decode,
    whole,
)
from data_pipeline.sources.streams import lines, lines_from
from stemma.core.errors import DamagedError, StemmaError

TEXT_BYTES = 8_000_000  # a longer text file comes in pieces, cut at line ends
ROWS = 256  # of a parquet file that are held at once


class SchemaError(StemmaError):
    """A file has not the columns that the profile names."""


def read_text(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per file; of a very long one, texts of about ``TEXT_BYTES``, numbered."""
    block: list[bytes] = []
    size = number = begin = 0
    for offset, line, length in lines(handle, MAX_LINE_BYTES):
        if length > MAX_LINE_BYTES:
            yield too_long(f"@{offset}", line, length)
            continue
        if size + length > TEXT_BYTES and block:
            yield decode(b"".join(block), str(number), begin)
            block, size, number = [], 0, number + 1
        if not block:
            begin = offset
        block.append(line)
        size += len(line)
    if block:
        yield decode(b"".join(block), str(number), begin)


def read_python(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per module."""
    yield whole(handle)


def read_jsonl(
    handle: IO[bytes], name: str, fields: Sequence[str] = ("text",), start: int = 0, stop: int = 0
) -> Iterator[Item]:
    """One text per line, under one or several keys.

    Args:
        handle: the file; seekable if ``stop`` is given.
        name: unused; all readers take it.
        fields: keys of the text.
        start: first byte of the part to read: lines that begin in ``[start, stop)``, named ``@byte``.
        stop: end of the part, or 0 for the whole file, whose lines are named by number.
    """
    found = lines_from(handle, start, stop, MAX_LINE_BYTES) if stop else lines(handle, MAX_LINE_BYTES)
    for number, (offset, line, length) in enumerate(found):
        row = f"@{offset}" if stop else str(number)
        if length > MAX_LINE_BYTES:
            yield too_long(row, line, length)
        elif line.strip():
            yield parse_line(line, row, fields)


def too_long(row: str, line: bytes, length: int) -> Item:
    shown = line[:SHOWN_BYTES].decode("utf-8", errors="replace")
    return Item(row, shown, "line_too_long", f"{length} bytes, more than {MAX_LINE_BYTES}")


def parse_line(line: bytes, row: str, fields: Sequence[str]) -> Item:
    """One JSON object as an item. What the fast parser refuses (NaN, lone surrogates) ``json`` may take."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        item = decode(line, row)
        if item.rule:
            return item
        try:
            value = json.loads(item.text)
        except (ValueError, RecursionError) as error:
            return Item(row, item.text, "not_json", str(error))
    if not isinstance(value, dict):
        return Item(row, line.decode("utf-8", "replace"), "no_text", f"no object but {type(value).__name__}")
    missing = [key for key in fields if key not in value]
    if missing:
        said = f"no string under {missing[0]!r}; keys: {', '.join(map(str, value))}"
        return Item(row, line.decode("utf-8", "replace"), "no_text", said)
    return joined([value[key] for key in fields], row, fields)


def joined(values: Sequence[Any], row: str, fields: Sequence[str]) -> Item:
    """Texts of several fields as one, a blank line between them; empty ones are left out.

    A field that holds something else than text makes the row a reject: half a text is not what was asked for.
    """
    texts: list[str] = []
    for value, field in zip(values, fields):
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = "\n".join(value)
        if value is not None and not isinstance(value, str):
            return Item(row, "", "no_text", f"no string under {field!r} but {type(value).__name__}")
        if value:
            texts.append(value)
    if not texts:
        return Item(row, "", "no_text", f"nothing under {', '.join(map(repr, fields))}")
    return Item(row, "\n\n".join(texts))


def read_parquet(
    handle: IO[bytes], name: str, fields: Sequence[str] = ("text",), start: int = 0, stop: int = 0
) -> Iterator[Item]:
    """One text per row, in one or several columns; rows are numbered through the whole file.

    Args:
        handle: the file, seekable.
        name: what to call it in an error.
        fields: columns of the text.
        start: first row group to read.
        stop: row group to stop before, or 0 for all.

    Raises:
        DamagedError: not readable as parquet.
        SchemaError: without such a column, or with one of another type.
    """
    import pyarrow as pa

    file = open_parquet(handle, name)
    check_columns(file.schema_arrow, fields, name)
    groups = range(start, stop or file.metadata.num_row_groups)
    row = sum(file.metadata.row_group(index).num_rows for index in range(start))
    try:
        for index in groups:
            for batch in file.iter_batches(ROWS, [index], list(fields), use_threads=False):
                columns = [batch.column(field).to_pylist() for field in fields]
                for values in zip(*columns):
                    yield joined(values, str(row), fields)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{name} is not readable at row {row} ({error}). It was left as it is.") from error


def open_parquet(handle: IO[bytes], name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(handle, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{name} is not readable as parquet ({error}). It was left as it is.") from error


def check_columns(schema: Any, fields: Sequence[str], name: str) -> None:
    import pyarrow.types as pt

    for field in fields:
        if field not in schema.names:
            raise SchemaError(
                f"{name} has no column {field!r}; its columns are {', '.join(schema.names)}. "
                "Name one of them in `text_field`."
            )
        kind = schema.field(field).type
        inner = (
            kind.value_type if pt.is_dictionary(kind) or pt.is_list(kind) or pt.is_large_list(kind) else kind
        )
        if not (
            pt.is_string(inner) or pt.is_large_string(inner) or pt.is_string_view(inner) or pt.is_null(inner)
        ):
            raise SchemaError(
                f"{name}: the column {field!r} holds {kind}, expected strings. "
                "Name a column of texts in `text_field`."
            )


def parquet_ranges(handle: IO[bytes], name: str, target: int) -> list[tuple[int, int, int]]:
    """Cut a parquet file into ranges of row groups: (first, stop, bytes) with about ``target`` bytes each.

    Raises:
        DamagedError: not readable as parquet.
    """
    metadata = open_parquet(handle, name).metadata
    ranges: list[tuple[int, int, int]] = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        size = sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        if ranges and ranges[-1][2] + size <= target:
            first, _, held = ranges.pop()
            ranges.append((first, index + 1, held + size))
        else:
            ranges.append((index, index + 1, size))
    return ranges or [(0, 0, 0)]


def read_mediawiki(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per article of a MediaWiki dump, its title on top."""
    for title, page in wikitext.pages(handle, name):
        yield Item(title, f"{title}\n\n{wikitext.to_text(page)}")


READERS: dict[str, Callable[..., Iterator[Item]]] = {
    "text": read_text,
    "markdown": markup.read_markdown,
    "rst": markup.read_rst,
    "html": hypertext.read_html,
    "notebook": notebooks.read_notebook,
    "code": source_code.read_code,
    "python": read_python,
    "docstrings": pydoc.read_docstrings,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "warc": warc.read_warc,
    "mediawiki": read_mediawiki,
    "factbook": factbook.read_factbook,
}
DIVISIBLE = ("jsonl", "parquet")  # readers that take the fields of the text, and a part of a file
