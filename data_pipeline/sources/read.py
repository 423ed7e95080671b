"""Reading sources: cut into pieces of work, then turned into documents, in bounded memory.

``units`` cuts what was found into pieces of about equal size, the same ones on every machine;
``SourceReader`` turns them into documents. A file is a stream: how large it is does not matter for memory.

Nothing is lost silently. What a reader cannot use is a reject with its rule. A file that is damaged, or not
what it was when the run began, stops the run and is named (or, if its source says ``on_damage: skip``, the
part behind the damage is one reject).
"""

import io
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import fsspec
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.config.sources import (
    DebianSource,
    HuggingFaceSource,
    LocalSource,
    PackageSource,
    PythonSource,
    SourceBase,
)
from data_pipeline.sources import engram_wheel, hub, licences, readers, streams
from data_pipeline.sources.archives import Archive
from data_pipeline.sources.find import Found, check_unchanged, digest_of
from data_pipeline.sources.item import Item
from stemma.core.errors import DamagedError

UNIT_BYTES = 2_000_000  # raw bytes per piece of work, at least
MAX_UNITS = 4_000  # of one source, about; large sources get larger units
ARCHIVE_PASSES = 8  # a compressed tar is read from its beginning for each unit, so it has no more of them
NO_RANGES = ("http", "https", "ftp")  # their servers need not answer requests for a part
MAX_NUL_SHARE = 0.001  # a stray NUL is a slip of some tool; many are another encoding, or no text


@dataclass(frozen=True)
class Piece:
    """A file of a source, or a part of one.

    Attributes:
        file: its name, as in ``Found.files``.
        size: raw bytes of the whole file.
        mark: how the file looked when the run began, or "" where its archive is what counts.
        start, stop: the part: bytes of a jsonl file, row groups of a parquet file. ``stop`` 0: the whole.
        path: its path in its source tree, if that is another than ``file``.
        licence: of the nearest licence file, for source code.
    """

    file: str
    size: int
    mark: str = ""
    start: int = 0
    stop: int = 0
    path: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Unit:
    """A piece of work: some files of one source, and where they are."""

    source: str
    number: int
    pieces: tuple[Piece, ...]
    location: str = ""
    mark: str = ""  # of the archive

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files."""
        return tuple(piece.file for piece in self.pieces)


def units(name: str, source: SourceBase, found: Found) -> list[Unit]:
    """Cut a source's files into pieces of at least ``UNIT_BYTES``; the cut depends on the files alone.

    Raises:
        DamagedError: a large parquet file has no readable footer.
    """
    archive_mark = found.marks.get(found.location, "")
    total = sum(found.files.values())
    target = max(UNIT_BYTES, total // MAX_UNITS)
    if found.location.endswith((".deb", ".tgz", ".gz", ".xz", ".bz2", ".zst")):
        target = max(target, total // ARCHIVE_PASSES)
    if is_engram(source):
        target = total + 1
    groups: list[list[Piece]] = []
    filled = target
    for file, size in found.files.items():
        licence = licences.nearest(found.licences, file) if found.licences else ""
        whole = Piece(file, size, found.marks.get(file, ""), path=found.path_in_tree(file), licence=licence)
        for piece, weight in cut(source, whole, target):
            if filled + weight > target:
                groups.append([])
                filled = 0
            groups[-1].append(piece)
            filled += weight
    return [
        Unit(name, number, tuple(pieces), found.location, archive_mark)
        for number, pieces in enumerate(groups)
    ]


def cut(source: SourceBase, whole: Piece, target: int) -> list[tuple[Piece, int]]:
    """Parts of a file, each with its size in bytes; of most files, the whole."""
    uncut = [(whole, whole.size)]
    if (
        not isinstance(source, LocalSource)
        or source.format not in readers.DIVISIBLE
        or whole.size <= UNIT_BYTES
    ):
        return uncut
    if whole.file.startswith(tuple(f"{protocol}:" for protocol in NO_RANGES)):
        return uncut
    check_unchanged(whole.file, whole.mark)
    with fsspec.open(whole.file, "rb") as handle:
        if source.format == "parquet":
            try:
                ranges = readers.parquet_ranges(handle, whole.file, target)
            except DamagedError:
                if source.on_damage == "stop":
                    raise
                return uncut  # reading it will say the same, and count it
        elif streams.compression(handle.read(6)):
            return uncut
        else:
            number = -(-whole.size // target)
            edges = [whole.size * index // number for index in range(number + 1)]
            ranges = [(start, stop, stop - start) for start, stop in pairwise(edges)]
    return [(replace(whole, start=start, stop=stop), weight) for start, stop, weight in ranges]


def is_engram(source: SourceBase) -> bool:
    return isinstance(source, PackageSource) and source.format == "engram"


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
        with fsspec.open(path_of(unit, piece), "rb") as handle:
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


def texts(source: SourceBase, found: Found) -> Iterator[tuple[str, str]]:
    """Yield (origin, text) of everything a source has, unfiltered: what evaluation sets are read by.

    Raises:
        DamagedError, SourceError: as ``read``.
    """
    for unit in units("", source, found):
        for origin, item in read(source, unit):
            if not item.rule and item.text.strip():
                yield origin, item.text


def parts(text: str, max_bytes: int) -> list[str]:
    """Cut a long text at line ends into parts of at most ``max_bytes`` UTF-8 bytes; longer lines are cut."""
    if len(text.encode()) <= max_bytes:
        return [text]
    pieces: list[str] = []
    current: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        for chunk in split_line(line, max_bytes):
            length = len(chunk.encode())
            if size + length > max_bytes:
                pieces.append("".join(current))
                current, size = [], 0
            current.append(chunk)
            size += length
    return [*pieces, "".join(current)]


def split_line(line: str, max_bytes: int) -> list[str]:
    if len(line.encode()) <= max_bytes:
        return [line]
    step = max_bytes // 4  # a character has at most four bytes
    return [line[start : start + step] for start in range(0, len(line), step)]


def document_id(source: str, origin: str, text: str) -> str:
    """First 20 hex digits of SHA-256 over source, origin and text, separated by NUL."""
    return digest_of(f"{source}\0{origin}\0{text}")[:20]


def storable(text: str) -> tuple[str, dict[str, int]]:
    """A text that any later tool can hold, and what had to go for it, counted.

    Lone surrogates (possible in JSON) have no UTF-8 form and become ``?``; NUL ends strings in many tools.
    """
    changes: dict[str, int] = {}
    if nul := text.count("\x00"):
        text, changes["nul"] = text.replace("\x00", ""), nul
    try:
        text.encode()
    except UnicodeEncodeError:
        changes["surrogates"] = sum("\ud800" <= character <= "\udfff" for character in text)
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\r\n", "\n"), changes


class SourceReader(PipelineStep):
    """Reads one unit per rank into documents; what cannot be read goes to the exclusion writer with its rule.

    Args:
        work: the units, one per rank.
        sources: the config models of the sources by id.
        max_bytes: longer texts are cut into parts.
        shard_bytes: documents go to numbered shards of about this many bytes, for the filters to work on.
        exclusion_writer: receives what cannot be read.
    """

    type = "📖 - READER"
    name = "stemma source"

    def __init__(
        self,
        work: list[Unit],
        sources: dict[str, SourceBase],
        max_bytes: int,
        shard_bytes: int,
        exclusion_writer: DiskWriter,
    ) -> None:
        super().__init__()
        self.work = work
        self.sources = sources
        self.max_bytes = max_bytes
        self.shard_bytes = shard_bytes
        self.exclusion_writer = exclusion_writer

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        unit = self.work[rank]
        source = self.sources[unit.source]
        if source.use != "train":
            raise ValueError(f"source {unit.source} is for `{source.use}` and never becomes documents")
        written = 0
        with self.exclusion_writer as rejects:
            for origin, item in read(source, unit):
                text, changes = storable(item.text)
                rule, value = verdict(item, text, changes)
                cut = parts(text, self.max_bytes)
                if rule:
                    del cut[1:]  # one reject per item; its beginning is enough to look at
                for number, piece in enumerate(cut):
                    where = f"{origin}.{number}" if len(cut) > 1 else origin
                    metadata = {
                        **item.metadata,
                        "source": unit.source,
                        "domain": source.domain,
                        "language": source.language,
                        "licence": source.licence,
                        "origin": where,
                        "whole": origin,
                        "chain": f"{source.filters}.{source.language}",
                        "shard": f"{written // self.shard_bytes:03d}",
                    }
                    if changes:
                        metadata["found"] = {"read": changes}
                    document = Document(
                        text=piece, id=document_id(unit.source, where, piece), metadata=metadata
                    )
                    if rule:
                        document.metadata |= {"filter_reason": rule, "value": value}
                        rejects.write(document, rank)
                        continue
                    written += len(piece.encode())
                    self.stat_update("documents")
                    yield document


def verdict(item: Item, text: str, changes: dict[str, int]) -> tuple[str, str]:
    """Rule and value of an item that cannot be a document, or empty strings."""
    if item.rule:
        return item.rule, item.value
    if changes.get("nul", 0) > len(item.text) * MAX_NUL_SHARE + 1:
        return "nul_bytes", f"{changes['nul']} of {len(item.text)} characters"
    return ("", "") if text.strip() else ("empty", "")
