"""Small real archives for the tests: wheels, zips in zips, tar balls, Debian packages."""

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest


def zip_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def deb_bytes(
    members: dict[str, bytes], suffix: str = "xz", compress: Callable[[bytes], bytes] = lzma.compress
) -> bytes:
    """A Debian package whose data is packed in some way."""
    with gzip.open(io.BytesIO(tar_bytes({f"./{name}": content for name, content in members.items()}))) as tar:
        data = compress(tar.read())
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": tar_bytes({"./control": b"Package: a\n"})}
    parts[f"data.tar.{suffix}".rstrip(".")] = data
    return b"!<arch>\n" + b"".join(ar_member(name, content) for name, content in parts.items())


def wheel_bytes(name: str, version: str, members: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    wheel = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return zip_bytes({**members, f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel, f"{info}/RECORD": b""})


def put(path: Path, content: bytes) -> str:
    """Write a file; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def pack() -> SimpleNamespace:
    """``zip``, ``tar``, ``deb``, ``wheel`` give an archive's bytes; ``put`` writes one, returns its hash."""
    return SimpleNamespace(zip=zip_bytes, tar=tar_bytes, deb=deb_bytes, wheel=wheel_bytes, put=put)
