"""Byte streams: decompression by what the first bytes say, lines with a cap, slices of a file.

Nothing here holds more than a buffer, and a stream that is cut off raises: its readable head is never taken
for the whole.
"""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

CHUNK = 1 << 16
ZSTD_CHUNK = 1 << 11  # bytes unpacked at a time: what each gives is held, up to 32,000 times as many
IN_MEMORY = 64_000_000  # bytes; a stream that has to be seekable goes to a temporary file beyond this
MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, OSError)


def is_damage(error: BaseException) -> bool:
    """Whether an error says that bytes are not what they should be, rather than that they could not be had.

    Decompressors raise a bare ``OSError``, too; the system's own (no permission, no connection) have a number
    or a class of their own.
    """
    if isinstance(error, OSError):
        return type(error) in (OSError, gzip.BadGzipFile) and error.errno is None
    return isinstance(error, DAMAGE)


def compression(head: bytes) -> str:
    """``gz``, ``bz2``, ``xz``, ``zst`` or "" by a file's first bytes: names lie, and servers unpack."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def decompressed(handle: IO[bytes]) -> IO[bytes]:
    """A stream of the content, through its decompressor if it is compressed.

    Concatenated members (as parallel compressors and WARC writers make) are read to the last. Reading raises
    one of ``DAMAGE`` (all of them: `is_damage`) where the stream is corrupt or ends before its end mark.
    """
    buffered = handle if isinstance(handle, io.BufferedReader) else io.BufferedReader(Readable(handle), CHUNK)
    kind = compression(buffered.peek(6)[:6])
    if kind == "gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=buffered), CHUNK)
    if kind == "bz2":
        return io.BufferedReader(bz2.BZ2File(buffered), CHUNK)
    if kind == "xz":
        return io.BufferedReader(lzma.LZMAFile(buffered), CHUNK)
    if kind == "zst":
        return io.BufferedReader(ZstdStream(buffered), CHUNK)
    return buffered


class Readable(io.RawIOBase):
    """Any object with ``read`` as a raw stream; fsspec and zipfile give such."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle = handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        data = self.handle.read(len(target))
        target[: len(data)] = data
        return len(data)


class ZstdStream(io.RawIOBase):
    """Zstandard frames, one after the other.

    The library's own stream reader stops after the first frame unless told otherwise, and takes a cut-off
    frame for a finished one.
    """

    def __init__(self, handle: IO[bytes]) -> None:
        import zstandard

        self.handle = handle
        self.new_frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self.error = zstandard.ZstdError
        self.frame = self.new_frame()
        self.begun = False
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        while not self.ready:
            rest = b""
            if self.frame.eof:
                rest, self.frame, self.begun = self.frame.unused_data, self.new_frame(), False
            chunk = rest or self.handle.read(ZSTD_CHUNK)
            if not chunk:
                if self.begun:
                    raise EOFError("the stream ends within a zstd frame")
                return 0
            self.begun = True
            try:
                self.ready = memoryview(self.frame.decompress(chunk))
            except self.error as error:
                raise OSError(f"not readable as zstd: {error}") from error
        length = min(len(target), len(self.ready))
        target[:length] = self.ready[:length]
        self.ready = self.ready[length:]
        return length


class Slice(io.RawIOBase):
    """Bytes ``start`` to ``start + length`` of a seekable file; a shorter file raises ``EOFError``."""

    def __init__(self, handle: IO[bytes], start: int, length: int) -> None:
        self.handle = handle
        self.left = length
        handle.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        data = self.handle.read(min(len(target), self.left))
        if self.left and not data and len(target):
            raise EOFError(f"the file ends {self.left} bytes before it should")
        self.left -= len(data)
        target[: len(data)] = data
        return len(data)


def seekable(handle: IO[bytes]) -> IO[bytes]:
    """The stream itself if one can jump in it, else a copy: in memory if small, else in a temporary file."""
    if handle.seekable():
        return handle
    copy = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (lives as long as its reader)
    shutil.copyfileobj(handle, copy, CHUNK)
    copy.seek(0)
    return copy


def lines(handle: IO[bytes], limit: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield (offset, line, length) of every line, with its line end; ``length`` does not count that.

    Of a line of more than ``limit`` bytes the first ``limit`` are given; the rest is read past, never held.
    """
    offset = 0
    while line := handle.readline(limit + 2):
        taken, ended = len(line), line.endswith(b"\n")
        while not ended and (more := handle.readline(CHUNK)):
            taken, ended = taken + len(more), more.endswith(b"\n")
        length = taken - ended
        yield offset, line[:limit] if length > limit else line, length
        offset += taken


def lines_from(handle: IO[bytes], start: int, stop: int, limit: int) -> Iterator[tuple[int, bytes, int]]:
    """``lines`` of a seekable file that begin at a byte in ``[start, stop)``; offsets are the file's.

    Over ranges that cover a file without gap or overlap, every line comes exactly once.
    """
    handle.seek(max(start - 1, 0))
    begin = start
    if start:  # a line begins here only if the byte before ends one
        begin = start - 1
        while begin < stop and (more := handle.readline(CHUNK)):  # not to the end of a line of gigabytes
            begin += len(more)
            if more.endswith(b"\n"):
                break
    if begin >= stop:
        return
    for offset, line, length in lines(handle, limit):
        if begin + offset >= stop:
            return
        yield begin + offset, line, length
