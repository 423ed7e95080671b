"""Reading units: files become items, in bounded memory. How large a file is does not matter: it is a stream.

Nothing is lost silently. What a reader cannot use is a reject with its rule. A file that is damaged, or not
what it was when the run began, stops the run and is named (or, if its source says ``on_damage: skip``, the
part behind the damage is one reject).
"""

import io
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from data_pipeline.config.sources import (
    DebianSource,
    HuggingFaceSource,
    PackageSource,
    PythonSource,
    SourceBase,
)
from data_pipeline.sources import engram_wheel, hub, readers, streams
from data_pipeline.sources.archives import Archive
from data_pipeline.sources.find import Found, check_unchanged, open_file
from data_pipeline.sources.item import Item
from data_pipeline.sources.units import Piece, Unit, is_engram, units
from stemma.core.errors import DamagedError


def read(source: SourceBase, unit: Unit) -> Iterator[tuple[str, Item]]:
    """Yield (origin, item) of one unit; ``origin`` is ``archive!member#row``.

    Raises:
        DamagedError: an archive or a file is not readable, and the source says to stop.
        SourceError: a file is not what it was when the run began.
    """
    if isinstance(source, PackageSource) and is_engram(source):
        check_unchanged(unit.location, unit.mark)
        for item in engram_wheel.generate(Path(unit.location), source.items):
            yield f"{source.archive}#{item.row}", item
        return
    waiting = {piece: origin_of(source, unit, piece) for piece in unit.pieces}
    with closing(open_pieces(source, unit)) as opened:
        while waiting:
            here = waiting  # whose pieces are lost if an error comes now: all that are not open yet
            try:
                piece, handle = next(opened)
                here = {piece: waiting.pop(piece)}
                for item in items(source, piece, handle, here[piece]):
                    yield f"{here[piece]}#{item.row}", item
                check_pieces(unit, here)  # it may have changed while it was read
            except (DamagedError, *streams.DAMAGE) as error:
                check_pieces(unit, here)  # if it has changed, that is why
                if not isinstance(error, DamagedError) and not streams.is_damage(error):
                    raise
                if source.on_damage == "stop":
                    raise damaged(error, here) from error
                for origin in here.values():
                    yield f"{origin}#damaged", Item("damaged", "", "damaged", str(error))
                if here is waiting:
                    return
    if unit.mark:
        check_unchanged(unit.location, unit.mark)


def check_pieces(unit: Unit, pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        if piece.mark:
            check_unchanged(path_of(unit, piece), piece.mark)


def damaged(error: Exception, pieces: Mapping[Piece, str]) -> DamagedError:
    origin = next(iter(pieces.values()))
    named = isinstance(error, DamagedError)
    what = str(error) if named else f"{origin} is damaged: {error}. It was left as it is."
    return DamagedError(
        f"{what} What could be read of it was not taken for the whole. Replace the file; or set "
        "`on_damage: skip` for its source to keep what comes before the damage and count the rest as reject."
    )


def origin_of(source: SourceBase, unit: Unit, piece: Piece) -> str:
    """How lineage names a file."""
    if isinstance(source, PackageSource | DebianSource):
        return f"{source.archive}!{piece.file}"
    if isinstance(source, PythonSource):
        return f"{source.distribution or 'python'}!{piece.file}"
    if isinstance(source, HuggingFaceSource):
        return hub.origin(source, piece.file)
    return piece.file


def path_of(unit: Unit, piece: Piece) -> str:
    """Where a file of a folder or a URL can be opened."""
    return str(Path(unit.location) / piece.file) if unit.location else hub.url_of(piece.file)


def open_pieces(source: SourceBase, unit: Unit) -> Generator[tuple[Piece, IO[bytes]], None, None]:
    """Yield pieces with their raw streams, an archive's in the archive's order.

    Raises:
        DamagedError: the archive cannot be read; no further piece can be had.
        SourceError: a file has changed since the run began.
    """
    if isinstance(source, PackageSource | DebianSource):
        if unit.mark:
            check_unchanged(unit.location, unit.mark)
        by_name = {piece.file: piece for piece in unit.pieces}
        for name, stream in Archive(Path(unit.location)).stream(by_name):
            yield by_name[name], stream
        return
    for piece in unit.pieces:
        if piece.mark:
            check_unchanged(path_of(unit, piece), piece.mark)
        if isinstance(source, HuggingFaceSource):
            yield piece, io.BytesIO()  # `datasets` opens it
            continue
        with open_file(path_of(unit, piece)) as handle:
            yield piece, handle


def items(source: SourceBase, piece: Piece, handle: IO[bytes], origin: str) -> Iterator[Item]:
    """The items of one piece."""
    if isinstance(source, HuggingFaceSource):
        yield from hub.rows(source, piece.file)
        return
    if not piece.size:
        yield Item("0", "", "empty_file", "0 bytes")
        return
    format: str = source.format  # type: ignore[attr-defined]  # every other source type has one
    options: dict[str, Any] = {}
    if format in readers.DIVISIBLE:
        options = {"fields": source.fields, "start": piece.start, "stop": piece.stop}  # type: ignore[attr-defined]
    if format == "code":
        options = {"licence": piece.licence}
    if (format in readers.DIVISIBLE and piece.stop) or format == "parquet":
        stream = streams.seekable(handle)
    else:
        stream = streams.decompressed(handle)
    yield from readers.READERS[format](
        stream, origin if format == "parquet" else piece.path or piece.file, **options
    )


def texts(source: SourceBase, found: Found, unread: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield (origin, text) of everything a source has, unfiltered: what evaluation sets are read by.

    Args:
        source: the source.
        found: what it has.
        unread: counts the items that give no text, by rule.

    Raises:
        DamagedError, SourceError: as ``read``.
    """
    for unit in units("", source, found):
        for origin, item in read(source, unit):
            if item.rule or not item.text.strip():
                unread[item.rule or "empty"] += 1
            else:
                yield origin, item.text
