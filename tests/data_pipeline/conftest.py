"""Small real archives for the tests: wheels, zips in zips, tar balls."""

import hashlib
import io
import tarfile
import zipfile
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
    """``zip``, ``tar`` and ``wheel`` give an archive's bytes; ``put`` writes a file and returns its hash."""
    return SimpleNamespace(zip=zip_bytes, tar=tar_bytes, wheel=wheel_bytes, put=put)
