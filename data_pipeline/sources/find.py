"""Sources: where a corpus reads from, what is there, and the datatrove step that reads it.

``look`` finds out what a source has right now (and fetches what it needs); ``units`` cuts that into pieces
of work of about equal size, the same ones on every machine; ``SourceReader`` turns pieces into documents.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.config import LocalSource, PackageSource, PythonSource, SourceBase
from data_pipeline.sources import packages, readers
from stemma.core.errors import StemmaError

UNIT_BYTES = 2_000_000  # raw bytes per piece of work
NOT_SHIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


class SourceError(StemmaError):
    """A source has not what the profile says."""


@dataclass(frozen=True)
class Found:
    """What a source has.

    Attributes:
        files: name -> raw bytes, in the order they are read.
        location: the archive, folder or file system they are in.
        digest: identifies their content; part of the corpus's fingerprint.
        facts: what a person should know (archive, version), for ``sources.json``.
    """

    files: dict[str, int]
    location: str
    digest: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """A piece of work: some files of one source."""

    source: str
    number: int
    files: tuple[str, ...]


def look(source: SourceBase, cache: Path, offline: bool) -> Found:
    """Find what a source has, fetching its archive if need be.

    Raises:
        packages.OutOfReach: it cannot be had now.
        DamagedError, PackageError, SourceError: it is not what the profile says.
    """
    if isinstance(source, PackageSource):
        return look_into_package(source, cache, offline)
    if isinstance(source, PythonSource):
        return look_into_python(source)
    assert isinstance(source, LocalSource)
    return look_into_files(source)


def look_into_package(source: PackageSource, cache: Path, offline: bool) -> Found:
    path = packages.fetch(
        source.registry, source.package, source.version, source.archive, source.sha256, cache, offline
    )
    files = packages.Archive(path).members(source.members)
    facts = {"archive": source.archive, "sha256": source.sha256, "version": source.version}
    identity = source.sha256
    if source.format == "engram":  # what generators make depends on the interpreter, too
        identity += platform.python_version()
    return Found(select(files, source.max_bytes), str(path), digest_of(identity), facts)


def look_into_python(source: PythonSource) -> Found:
    """Modules of the standard library or of a distribution, without tests; their content is hashed.

    Raises:
        SourceError: the distribution is not installed.
    """
    if source.distribution:
        try:
            distribution = importlib.metadata.distribution(source.distribution)
        except importlib.metadata.PackageNotFoundError as error:
            raise SourceError(f"the distribution {source.distribution!r} is not installed here") from error
        root = Path(str(distribution.locate_file("")))
        names = [str(path) for path in distribution.files or []]
        facts = {"distribution": source.distribution, "version": distribution.version}
    else:
        root = Path(sysconfig.get_paths()["stdlib"])
        names = [path.relative_to(root).as_posix() for path in walk(root)]
        facts = {"distribution": "python", "version": platform.python_version()}
    sizes = {
        name: (root / name).stat().st_size
        for name in sorted(names)
        if name.endswith(".py") and not NOT_SHIPPED & set(Path(name).parts) and (root / name).is_file()
    }
    files = select({name: size for name, size in sizes.items() if size}, source.max_bytes)
    digest = packages.hash_files((name, (root / name).read_bytes()) for name in sorted(files))
    return Found(files, str(root), digest, facts)


def walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_SHIPPED]
        yield from (Path(folder, name) for name in names)


def look_into_files(source: LocalSource) -> Found:
    """Files behind URLs; size and modification time (or ETag) stand for their content.

    Raises:
        SourceError: a URL matches nothing.
    """
    files: dict[str, int] = {}
    marks: list[str] = []
    for url in source.urls:
        system, path = fsspec.core.url_to_fs(url)
        matches = sorted(name for name in system.glob(path) if system.isfile(name))
        if not matches:
            raise SourceError(f"{url} matches no file")
        for name in matches:
            info = system.info(name)
            full = system.unstrip_protocol(name)
            files[full] = int(info.get("size") or 0)
            changed = next(
                (info[key] for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in info), ""
            )
            marks.append(f"{full} {files[full]} {changed}")
    return Found(
        select(files, source.max_bytes), "", digest_of("\n".join(marks)), {"urls": list(source.urls)}
    )


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def select(files: dict[str, int], max_bytes: int | None) -> dict[str, int]:
    """An even sample of whole files of about ``max_bytes``: taken by hash of the name, sorted."""
    if max_bytes is None:
        return dict(sorted(files.items()))
    chosen: dict[str, int] = {}
    total = 0
    for name in sorted(files, key=digest_of):
        if total + files[name] <= max_bytes:
            chosen[name] = files[name]
            total += files[name]
    return dict(sorted(chosen.items()))


def units(name: str, source: SourceBase, found: Found) -> list[Unit]:
    """Cut a source's files into pieces of about ``UNIT_BYTES``; the cut depends on the files alone."""
    if isinstance(source, PackageSource) and source.format == "engram":
        return [Unit(name, 0, tuple(found.files))]
    groups: list[list[str]] = []
    size = UNIT_BYTES
    for file, length in found.files.items():
        if size + length > UNIT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += length
    return [Unit(name, number, tuple(files)) for number, files in enumerate(groups)]


def read(source: SourceBase, location: str, files: tuple[str, ...]) -> Iterator[tuple[str, readers.Item]]:
    """Yield (origin, item) of some files of a source; ``origin`` is ``archive!member#row``.

    Raises:
        DamagedError: an archive or a file is not readable.
    """
    if isinstance(source, PackageSource) and source.format == "engram":
        for item in readers.generate_engram(Path(location), source.items):
            yield f"{source.archive}#{item.row}", item
        return
    reader = readers.READERS[source.format]  # type: ignore[attr-defined]  # every source type has a format
    options = {"field": source.text_field} if source.format in readers.TABULAR else {}  # type: ignore[attr-defined]
    archive = packages.Archive(Path(location)) if isinstance(source, PackageSource) else None
    for file in files:
        if archive is not None:
            data, origin = archive.read(file), f"{archive.name}!{file}"
        elif isinstance(source, PythonSource):
            data, origin = (Path(location) / file).read_bytes(), f"{source.distribution or 'python'}!{file}"
        else:
            with fsspec.open(file, "rb", compression="infer") as handle:
                data, origin = handle.read(), file
        for item in reader(data, file, **options):
            yield f"{origin}#{item.row}", item


def parts(text: str, max_bytes: int) -> list[str]:
    """Cut a long text at line ends into parts of at most ``max_bytes`` UTF-8 bytes; longer lines are cut."""
    if len(text.encode()) <= max_bytes:
        return [text]
    pieces: list[str] = []
    current, size = [], 0
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


class SourceReader(PipelineStep):
    """Reads one unit per rank into documents; what cannot be read goes to the exclusion writer with its rule.

    Args:
        work: the units, one per rank.
        sources: the config models of the sources by id.
        locations: where each source's files are.
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
        locations: dict[str, str],
        max_bytes: int,
        shard_bytes: int,
        exclusion_writer: DiskWriter,
    ) -> None:
        super().__init__()
        self.work = work
        self.sources = sources
        self.locations = locations
        self.max_bytes = max_bytes
        self.shard_bytes = shard_bytes
        self.exclusion_writer = exclusion_writer

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        unit = self.work[rank]
        source = self.sources[unit.source]
        written = 0
        with self.exclusion_writer as rejects:
            for origin, item in read(source, self.locations[unit.source], unit.files):
                rule, value = item.rule, item.value
                if not rule and not item.text.strip():
                    rule, value = "empty", ""
                # lone surrogates (possible in JSON) have no UTF-8 form; NUL ends strings in too many tools
                text = item.text.replace("\r\n", "\n").replace("\x00", "").encode("utf-8", "replace").decode()
                cut = parts(text, self.max_bytes)
                for number, piece in enumerate(cut):
                    where = f"{origin}.{number}" if len(cut) > 1 else origin
                    metadata = {
                        "source": unit.source,
                        "domain": source.domain,
                        "language": source.language,
                        "licence": source.licence,
                        "origin": where,
                        "whole": origin,
                        "chain": f"{source.filters}.{source.language}",
                        "shard": f"{written // self.shard_bytes:03d}",
                    }
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


def describe(name: str, source: SourceBase, found: Found | None, reason: str = "") -> dict[str, Any]:
    """A source's entry in ``sources.json``."""
    entry: dict[str, Any] = {"id": name, "domain": source.domain, "language": source.language}
    entry["licence"] = source.licence
    if found is None:
        return {**entry, "skipped": re.sub(r"\s+", " ", reason)}
    return {**entry, **found.facts, "files": len(found.files), "raw_bytes": sum(found.files.values())}
