"""Finding sources: what each has right now, fetched if need be, and what identifies it.

``look`` answers before anything is read, and its digest goes into the corpus's fingerprint. What is in an
archive is identified by the archive's pinned SHA-256, a dataset on a hub by its pinned commit. Files are
identified by their content as long as hashing all of a source's takes about a second (``HASHED_BYTES``):
copying, touching or checking out a small data set anew must not make another corpus of it. Beyond that, and
behind other file systems, size and modification time (or the ETag) stand for the content, as reading all of
it once more would cost more than it tells. Either way ``marks`` keep how every file looked, and a file that
looks different when it is read is refused.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from data_pipeline.config.sources import (
    DebianSource,
    HuggingFaceSource,
    LocalSource,
    PackageSource,
    PythonSource,
    SourceBase,
)
from data_pipeline.sources import hub, licences, streams
from data_pipeline.sources.archives import Archive
from data_pipeline.sources.source_code import LANGUAGES
from stemma.core import packages
from stemma.core.errors import StemmaError
from stemma.core.files import sha256_file

HASHED_BYTES = 1_000_000_000  # local sources up to this size are identified by their content
NOT_SHIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
SUFFIXES: dict[str, tuple[str, ...]] = {  # what a folder is searched for, by format
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "text": (".txt", ".text"),
    "markdown": (".md", ".markdown"),
    "rst": (".rst", ".rest"),
    "html": (".html", ".htm", ".xhtml"),
    "notebook": (".ipynb",),
    "code": tuple(LANGUAGES),
    "python": (".py",),
    "docstrings": (".py",),
    "warc": (".warc",),
    "mediawiki": (".xml",),
    "factbook": (".json",),
}


class SourceError(StemmaError):
    """A source has not what the profile says, or no longer what it had."""


@dataclass(frozen=True)
class Found:
    """What a source has.

    Attributes:
        files: name -> raw bytes, sorted by name.
        location: the archive or folder they are in, or "" where names are whole URLs.
        digest: identifies their content; part of the corpus's fingerprint.
        facts: what a person should know (archive, version), for ``sources.json``.
        marks: file, or the archive, -> how it looked (``mark``), to notice a change before it is read.
        licences: folder -> licence of the licence file in it; filled for source code.
        tops: folders that were asked for; a file's path in its source tree begins below one.
    """

    files: dict[str, int]
    location: str
    digest: str
    facts: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    tops: tuple[str, ...] = ()

    def path_in_tree(self, file: str) -> str:
        """A file's path below the folder that was asked for, where what is above says nothing about it."""
        above = [top for top in self.tops if file.startswith(f"{top}/")]
        return file[len(max(above, key=len)) + 1 :] if above else file


def look(source: SourceBase, cache: Path, offline: bool) -> Found:
    """Find what a source has, fetching its archive if need be.

    Raises:
        packages.OutOfReach: it cannot be had now.
        DamagedError, PackageError, SourceError: it is not what the profile says, or there is nothing to read.
    """
    if isinstance(source, PackageSource | DebianSource):
        found = look_into_archive(source, cache, offline)
    elif isinstance(source, PythonSource):
        found = look_into_python(source)
    elif isinstance(source, HuggingFaceSource):
        found = look_into_hub(source, offline)
    else:
        assert isinstance(source, LocalSource)
        found = look_into_files(source)
    if not found.files:
        what = next(iter(found.facts.values()))  # archive, distribution, URLs or repository
        cap = f" of at most {source.max_bytes} bytes (`max_bytes`; files are taken whole)"
        raise SourceError(f"{what}: there is no file to read{cap if source.max_bytes else ''}")
    return found


def look_into_archive(source: PackageSource | DebianSource, cache: Path, offline: bool) -> Found:
    registry = source.registry if isinstance(source, PackageSource) else "debian"
    path = packages.fetch(
        registry, source.package, source.version, source.archive, source.sha256, cache, offline
    )
    archive = Archive(path)
    files = archive.members(source.members)
    facts = {"archive": source.archive, "sha256": source.sha256, "version": source.version}
    identity = source.sha256
    if source.format == "engram":  # what generators make depends on the interpreter, too
        identity += platform.python_version()
    known: dict[str, str] = {}
    if source.format == "code":
        known = licences.of_folders(archive.members(("*",)), lambda names: archive_texts(archive, names))
    files = select(files, source.max_bytes)
    return Found(files, str(path), digest_of(identity), facts, {str(path): mark(str(path))}, known)


def archive_texts(archive: Archive, names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name, stream in archive.stream(names):
        yield name, stream.read(licences.READ_BYTES)


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
    marks = {name: mark(str(root / name)) for name in files}
    digest = hash_files((name, root / name) for name in files)
    return Found(files, str(root), digest, facts, marks)


def walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_SHIPPED]
        yield from (Path(folder, name) for name in names)


def look_into_files(source: LocalSource) -> Found:
    """Files behind URLs.

    Raises:
        SourceError: a URL matches nothing.
    """
    files: dict[str, int] = {}
    marks: dict[str, str] = {}
    beside: dict[str, int] = {}  # licence files of a source tree
    tops: list[str] = []
    for url in source.urls:
        system, path = fsspec.core.url_to_fs(url)
        is_folder = system.isdir(path)
        names = system.find(path) if is_folder else system.glob(path)
        suffixes = SUFFIXES[source.format]
        matches = [name for name in names if not is_folder or suits(name, suffixes)]
        if not is_folder or isinstance(system, LocalFileSystem):  # folders match, too; links may lead nowhere
            matches = [name for name in matches if system.isfile(name)]
        if not matches:
            wanted = f" that ends in {', '.join(suffixes[:5])}" if is_folder else ""
            raise SourceError(f"{url} matches no file{wanted}")
        for name in matches:
            full = str(system.unstrip_protocol(name))
            files[full], marks[full] = size_and_mark(system, name)
        if source.format == "code":
            top = path if is_folder else str(path).partition("*")[0].rpartition("/")[0]
            tops.append(str(system.unstrip_protocol(top)))
            texts = [name for name in system.find(top) if licences.is_licence(name)]
            beside |= {str(system.unstrip_protocol(name)): 0 for name in texts}
    files = select(files, source.max_bytes)
    marks = {name: marks[name] for name in files}
    known = licences.of_folders(beside, local_texts) if beside else {}
    identified_by, digest = identify(files, marks)
    if known:  # what a filter makes of a file depends on the licences beside it
        digest = digest_of(f"{digest} {sorted(known.items())}")
    facts = {"urls": list(source.urls), "identified_by": identified_by}
    return Found(files, "", digest, facts, marks, known, tuple(tops))


def local_texts(names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        with open_file(name) as handle:
            yield name, handle.read(licences.READ_BYTES)


def suits(name: str, suffixes: tuple[str, ...]) -> bool:
    for packed in streams.SUFFIXES:
        name = name.removesuffix(packed)
    return name.lower().endswith(suffixes)


def look_into_hub(source: HuggingFaceSource, offline: bool) -> Found:
    """Data files of one split of a dataset.

    Raises:
        OutOfReach: the hub does not answer.
        SourceError: there is no such dataset, configuration, split or column.
    """
    try:
        urls = hub.data_files(source, offline)
    except hub.NoSuchDataset as error:
        raise SourceError(str(error)) from error
    files: dict[str, int] = {}
    marks: dict[str, str] = {}
    for number, url in enumerate(urls):
        system, path = fsspec.core.url_to_fs(url)
        size, seen = size_and_mark(system, path)
        name = hub.file_name(number, url)
        files[name] = size
        if source.is_folder:  # a commit on the hub does not change
            marks[name] = seen
    files = select(files, source.max_bytes)
    facts: dict[str, Any] = {"repository": source.repository, "split": source.split, "name": source.name}
    if not source.is_folder:
        identity = f"{source.repository} {source.revision} {source.name} {source.split}"
        facts |= {"revision": source.revision}
        return Found(files, "", digest_of(identity + "\n".join(files)), facts)
    located = {hub.url_of(name): size for name, size in files.items()}
    facts["identified_by"], digest = identify(located, {hub.url_of(name): marks[name] for name in files})
    return Found(files, "", digest, facts, {name: marks[name] for name in files})


def identify(files: Mapping[str, int], marks: Mapping[str, str]) -> tuple[str, str]:
    """What identifies files, ``content`` or ``size and time``, and the digest of that."""
    paths = [local_path(name) for name in files]
    if sum(files.values()) <= HASHED_BYTES and all(paths):
        return "content", hash_files((name, Path(path)) for name, path in zip(files, paths) if path)
    return "size and time", digest_of("\n".join(f"{name} {marks[name]}" for name in files))


def local_path(url: str) -> str | None:
    """The path of a URL of this machine's own file system."""
    system, path = fsspec.core.url_to_fs(url)
    return str(path) if isinstance(system, LocalFileSystem) else None


def open_file(url: str) -> IO[bytes]:
    """Open a file for reading; a local one directly, as fsspec would read its lines byte by byte."""
    path = local_path(url)
    return open(path, "rb") if path else fsspec.open(url, "rb").open()  # type: ignore[no-any-return]


def mark(url: str) -> str:
    """How a file looks without reading it: size and time of its last change, or its ETag.

    Raises:
        FileNotFoundError: it is gone.
    """
    system, path = fsspec.core.url_to_fs(url)
    system.invalidate_cache(path)  # listings are kept, and would say what was
    return size_and_mark(system, path)[1]


def size_and_mark(system: fsspec.AbstractFileSystem, path: str) -> tuple[int, str]:
    if isinstance(system, LocalFileSystem):
        status = os.stat(path)
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        return status.st_size, f"{status.st_size} bytes, changed at {seconds}.{nanoseconds:09d}"
    info = system.info(path)
    size = 1 if info.get("size") is None else int(info["size"])  # some servers do not say: it is not empty
    keys = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "created")
    changed = next((info[key] for key in keys if key in info), "")
    return size, f"{size} bytes, version {changed}"


def check_unchanged(url: str, seen: str) -> None:
    """Compare how a file looks with how it looked when the run began.

    Raises:
        SourceError: it has changed or is gone; names it.
    """
    try:
        now = mark(url)
    except FileNotFoundError:
        now = "gone"
    if now != seen:
        raise SourceError(
            f"{url} is not what it was when this run looked at it: {seen}; now: {now}. Nothing was sealed. "
            "Run again when it no longer changes: what is there then will be read as a corpus of its own."
        )


def hash_files(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over names and contents of files, in the order given."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}\0{sha256_file(path)}\0".encode())
    return digest.hexdigest()


def digest_of(text: str) -> str:
    """SHA-256 of a text, 64 hex digits."""
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


def describe(name: str, source: SourceBase, found: Found | None, reason: str = "") -> dict[str, Any]:
    """A source's entry in ``sources.json``."""
    entry: dict[str, Any] = {"id": name, "use": source.use, "domain": source.domain}
    entry |= {"language": source.language, "licence": source.licence}
    if found is None:
        return {**entry, "skipped": re.sub(r"\s+", " ", reason)}
    return {**entry, **found.facts, "files": len(found.files), "raw_bytes": sum(found.files.values())}
