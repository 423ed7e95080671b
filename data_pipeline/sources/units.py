"""Units of work: a source's files cut into pieces of about equal size, the same ones on every machine."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from data_pipeline.config.sources import LocalSource, PackageSource, SourceBase
from data_pipeline.sources import licences, readers, streams
from data_pipeline.sources.find import Found, check_unchanged, open_file
from stemma.core.errors import DamagedError

UNIT_BYTES = 2_000_000  # raw bytes per piece of work, at least
MAX_UNITS = 4_000  # of one source, about; large sources get larger units
ARCHIVE_PASSES = 8  # a compressed tar is read from its beginning for each unit, so it has no more of them
NO_RANGES = ("http", "https", "ftp")  # their servers need not answer requests for a part


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
        passing = Path(found.location).stat().st_size // 2  # what a pass costs must be worth its while
        target = max(target, total // ARCHIVE_PASSES, passing)
    if is_engram(source):
        target = total + 1
    groups: list[list[Piece]] = []
    filled = 0
    for file, size in found.files.items():
        licence = licences.nearest(found.licences, file) if found.licences else ""
        whole = Piece(file, size, found.marks.get(file, ""), path=found.path_in_tree(file), licence=licence)
        for piece, weight in cut(source, whole, target):
            if not groups or filled + weight > target:
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
    with open_file(whole.file) as handle:
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
