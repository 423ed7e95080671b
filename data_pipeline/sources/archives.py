"""Archives read in place: zip, tar, Debian packages, and archives in archives. Nothing is unpacked to disk.

Members come as streams. Of a compressed tar only the beginning can be reached directly, so wanted members are
handed out in one pass, in the archive's order.
"""

import fnmatch
import io
import tarfile
import zipfile
from collections.abc import Collection, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from data_pipeline.sources.streams import DAMAGE, Readable, Slice, decompressed, is_damage, seekable
from stemma.core.errors import DamagedError
from stemma.core.packages import PackageError

ZIP_SUFFIXES = (".whl", ".zip")
TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar")
DEB_SUFFIX = ".deb"
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60


class Archive:
    """A zip, tar or Debian package and the archives in it. Inner names: ``outer.zip!member``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def members(self, globs: tuple[str, ...]) -> dict[str, int]:
        """Members that match any glob: name -> size in bytes, sorted by name.

        Raises:
            DamagedError: the archive or an inner one cannot be read, or a member's name would escape it.
            PackageError: a glob matches nothing: the archive is not what the profile thinks.
        """
        listings: dict[str, dict[str, int]] = {}  # of this archive (""), and of those in it
        found: dict[str, int] = {}
        for glob in globs:
            outer, _, inner = glob.rpartition("!")
            if outer not in listings:
                with self._named(outer or self.name), self._opened(outer) as (handle, name):
                    listings[outer] = list_members(handle, name)
            prefix = f"{outer}!" if outer else ""
            names = fnmatch.filter(listings[outer], inner)
            if not names:
                raise PackageError(f"{self.name} has no member {glob!r}")
            found |= {prefix + name: listings[outer][name] for name in names}
        return dict(sorted(found.items()))

    def stream(self, members: Collection[str]) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield (name, stream) of members, each archive in one pass; a stream is gone when the next comes.

        Raises:
            DamagedError: one cannot be reached. What reading a stream raises is left to its reader.
        """
        inner_names: dict[str, set[str]] = {}
        for member in members:
            outer, _, name = member.rpartition("!")
            inner_names.setdefault(outer, set()).add(name)
        for outer, names in sorted(inner_names.items()):
            prefix = f"{outer}!" if outer else ""
            with self._named(outer or self.name), self._opened(outer) as (handle, name):
                for member, stream in stream_members(handle, name, names):
                    yield prefix + member, stream

    def read(self, member: str) -> bytes:
        """A member's whole content.

        Raises:
            DamagedError: it cannot be read (its checksum is wrong, or it is cut off).
        """
        with self._named(member):
            for _, stream in self.stream([member]):
                return stream.read()
        raise AssertionError("stream yields every member or raises")

    @contextmanager
    def _opened(self, outer: str) -> Iterator[tuple[IO[bytes], str]]:
        """This archive, or one in it, as a stream, and its name."""
        with ExitStack() as stack:
            handle: IO[bytes] = stack.enter_context(open(self.path, "rb"))
            name = self.name
            for inner in outer.split("!") if outer else ():
                member = stack.enter_context(closing(stream_members(handle, name, {inner})))
                name, handle = next(member)
            yield handle, name

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except (*DAMAGE, KeyError) as error:
            if not is_damage(error) and not isinstance(error, KeyError):
                raise
            raise DamagedError(
                f"{self.name}: {what} cannot be read ({error}). It was left as it is."
            ) from error


def safe_name(name: str) -> bool:
    """Whether a member's name stays inside its archive: relative, and without ``..``."""
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]


def list_members(handle: IO[bytes], name: str) -> dict[str, int]:
    """Regular files of an archive: name -> size in bytes, sorted by name.

    Raises:
        DamagedError: a member's name would escape it.
        PackageError: no known kind of archive.
    """
    if name.endswith(ZIP_SUFFIXES):
        with zipfile.ZipFile(seekable(handle)) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist() if not item.is_dir()}
    else:
        with tar_of(handle, name) as tar:
            sizes = {plain_name(item.name): item.size for item in tar if item.isfile()}
    escaping = [member for member in sizes if not safe_name(member)]
    if escaping:
        raise DamagedError(
            f"{name} has members whose names lead out of the archive: {escaping[:3]}. It is refused."
        )
    return dict(sorted(sizes.items()))


def stream_members(
    handle: IO[bytes], name: str, wanted: set[str]
) -> Generator[tuple[str, IO[bytes]], None, None]:
    """Yield (name, stream) of the wanted members, a zip's by name and a tar's in its own order.

    Raises:
        KeyError: the archive ended before all were found.
    """
    if name.endswith(ZIP_SUFFIXES):
        with zipfile.ZipFile(seekable(handle)) as archive:
            for member in sorted(wanted):
                with open_member(archive, member) as stream:
                    yield member, stream
        return
    missing = set(wanted)
    with tar_of(handle, name) as tar:
        for item in tar:
            member = plain_name(item.name)
            if item.isfile() and member in missing:
                missing.remove(member)
                stream_of = tar.extractfile(item)
                assert stream_of is not None  # a regular file has content
                yield member, io.BufferedReader(Readable(stream_of))
                if not missing:
                    return
    raise KeyError(f"no member {min(missing)}")


def open_member(archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    """A member of a zip as a stream.

    Raises:
        BadZipFile: it is encrypted, or packed in a way that is not known here.
        KeyError: there is no such member.
    """
    try:
        return archive.open(member)
    except RuntimeError as error:  # NotImplementedError is one, too
        raise zipfile.BadZipFile(f"{member}: {error}") from error


def plain_name(name: str) -> str:
    """Debian's tars write ``./usr/...``."""
    return name.removeprefix("./")


@contextmanager
def tar_of(handle: IO[bytes], name: str) -> Iterator[tarfile.TarFile]:
    """A tar archive, or a Debian package's data, as a stream.

    Raises:
        PackageError: the name says that it is neither.
    """
    if name.endswith(DEB_SUFFIX):
        handle = deb_data(handle)
    elif not name.endswith(TAR_SUFFIXES):
        kinds = (*ZIP_SUFFIXES, *TAR_SUFFIXES, DEB_SUFFIX)
        raise PackageError(f"{name} is no archive of a known kind: {', '.join(kinds)}")
    stream = decompressed(handle)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


def deb_data(handle: IO[bytes]) -> IO[bytes]:
    """The member ``data.tar*`` of a Debian package, an ``ar`` archive (deb(5)).

    Raises:
        tarfile.ReadError: it is no Debian package, or is cut off before its data.
    """
    handle = seekable(handle)
    if handle.read(len(AR_MAGIC)) != AR_MAGIC:
        raise tarfile.ReadError("not a Debian package: no ar archive")
    while len(header := handle.read(AR_HEADER)) == AR_HEADER and header.endswith(b"`\n"):
        if not header[48:58].strip().isdigit():
            break
        size, start = int(header[48:58]), handle.tell()
        if header[:16].strip().rstrip(b"/").startswith(b"data.tar"):
            return io.BufferedReader(Slice(handle, start, size))
        handle.seek(start + size + size % 2)
    raise tarfile.ReadError("not a whole Debian package: it has no data.tar")
