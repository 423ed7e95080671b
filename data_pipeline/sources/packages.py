"""Archives of package registries: fetched by the registry's own client, pinned by SHA-256, read in place.

An archive is data here: nothing in it is installed, and nothing is unpacked onto the disk. What a wheel is
for (interpreter, platform) is taken from its file name, so that every machine fetches the same bytes.
"""

import fnmatch
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import sha256_file, sync_folder

CONNECT_SECONDS = 20
FETCH_SECONDS = 600
ZIP_SUFFIXES = (".whl", ".zip")
TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")


class OutOfReach(Exception):
    """No registry answered (or the run is offline): the archive cannot be had now. Carries the reason."""


class PackageError(StemmaError):
    """A registry answered, but it has not what the profile pins."""


def fetch(
    registry: str, package: str, version: str, archive: str, sha256: str, cache: Path, offline: bool = False
) -> Path:
    """Return the path of a pinned archive in the cache, fetching it if it is not there.

    Args:
        registry: ``pypi`` or ``npm``.
        package: name in the registry.
        version: exact version.
        archive: file name of the archive.
        sha256: what its content must hash to, 64 hex digits.
        cache: folder shared by all runs; the archive goes to ``packages/`` in it.
        offline: do not ask the registry.

    Raises:
        DamagedError: what is in the cache, or what was fetched, is not what the profile pins.
        OutOfReach: no registry could be asked.
        PackageError: the registry has no such version or archive.
    """
    target = cache / "packages" / archive
    if target.exists():
        found = sha256_file(target)
        if found != sha256:
            raise DamagedError(
                f"{target} has SHA-256 {found}, the profile pins {sha256}. It was left as it is. "
                "If the pin is right, delete that file and run again: it will be fetched anew."
            )
        return target
    if offline:
        raise OutOfReach("offline: the registry was not asked, and the archive is not in the cache")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        CLIENTS[registry](package, version, archive, Path(folder))
        fetched = Path(folder) / archive
        if not fetched.exists():
            names = sorted(path.name for path in Path(folder).iterdir())
            raise PackageError(f"{package} {version} gave {names}, the profile names the archive {archive!r}")
        found = sha256_file(fetched)
        if found != sha256:
            raise DamagedError(
                f"{archive}, fetched from the {registry} registry, has SHA-256 {found}; the profile pins "
                f"{sha256}. It was dropped, nothing was overwritten. Either the registry or the pin is wrong."
            )
        os.replace(fetched, target)
    sync_folder(target.parent)
    return target


def pip_download(package: str, version: str, archive: str, folder: Path) -> None:
    """Fetch an archive with the running interpreter's pip."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "--retries",
        "0",
    ]
    command += ["--no-input", "--timeout", str(CONNECT_SECONDS), "--dest", str(folder)]
    if archive.endswith(".whl"):
        python, abi, platforms = archive.removesuffix(".whl").split("-")[-3:]
        command += ["--only-binary", ":all:"]
        if platforms != "any":
            command += [
                "--implementation",
                python[:2],
                "--python-version",
                python[2:].split(".")[0],
                "--abi",
                abi,
            ]
            command += [part for name in platforms.split(".") for part in ("--platform", name)]
    else:
        command += ["--no-binary", ":all:"]
    code, output = run_client([*command, f"{package}=={version}"])
    if code == 0:
        return
    if "from versions: none" in output:
        raise OutOfReach(f"no package index answered, or none knows {package!r} ({last_line(output)})")
    if "from versions:" in output:
        raise PackageError(f"the registry has no {package} {version} for this archive: {last_error(output)}")
    raise OutOfReach(f"pip could not fetch {package} {version}: {last_line(output)}")


def npm_pack(package: str, version: str, archive: str, folder: Path) -> None:
    """Fetch a tarball with npm, which must be installed: only profiles that name npm packages need it."""
    if shutil.which("npm") is None:
        raise OutOfReach("npm is not installed, and this source is an npm package")
    code, output = run_client(
        ["npm", "pack", f"{package}@{version}", "--pack-destination", str(folder), "--silent"]
    )
    if code != 0:
        if "E404" in output or "ETARGET" in output:
            raise PackageError(f"the npm registry has no {package} {version}: {last_line(output)}")
        raise OutOfReach(f"npm could not fetch {package} {version}: {last_line(output)}")


CLIENTS: dict[str, Callable[[str, str, str, Path], None]] = {"pypi": pip_download, "npm": npm_pack}


def run_client(command: list[str]) -> tuple[int, str]:
    """Run a registry client; return its exit status and what it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise OutOfReach(f"{Path(command[0]).name} did not finish within {FETCH_SECONDS} s") from error
    return done.returncode, done.stdout + done.stderr


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def last_error(text: str) -> str:
    """The line that lists the versions there are; pip prints it before its closing line."""
    return next(line.strip() for line in text.splitlines() if "from versions:" in line)


def safe_name(name: str) -> bool:
    """Whether a member's name stays inside its archive: relative, and without ``..``."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (
        not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
        if path.parts
        else False
    )


def list_members(path: Path | io.BytesIO, name: str) -> dict[str, int]:
    """Regular files of a zip or tar archive: name -> size in bytes, sorted by name.

    Raises:
        DamagedError: it cannot be read, or a member's name would escape it.
    """
    try:
        if name.endswith(ZIP_SUFFIXES):
            with zipfile.ZipFile(path) as archive:
                sizes = {item.filename: item.file_size for item in archive.infolist() if not item.is_dir()}
        elif name.endswith(TAR_SUFFIXES):
            with open_tar(path) as archive:
                sizes = {item.name: item.size for item in archive.getmembers() if item.isfile()}
        else:
            raise PackageError(f"{name}: neither a zip ({ZIP_SUFFIXES}) nor a tar archive ({TAR_SUFFIXES})")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise DamagedError(f"{name} is not a readable archive ({error}). It was left as it is.") from error
    escaping = [member for member in sizes if not safe_name(member)]
    if escaping:
        raise DamagedError(
            f"{name} has members whose names lead out of the archive: {escaping[:3]}. It is refused."
        )
    return dict(sorted(sizes.items()))


def open_tar(path: Path | io.BytesIO) -> tarfile.TarFile:
    return tarfile.open(path) if isinstance(path, Path) else tarfile.open(fileobj=path)


class Archive:
    """A zip or tar archive and the archives in it, read in memory. Inner names: ``outer.zip!member``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._inner: dict[str, bytes] = {}

    def members(self, globs: tuple[str, ...]) -> dict[str, int]:
        """Members that match any glob: name -> size in bytes, sorted by name.

        Raises:
            DamagedError: the archive or an inner one cannot be read.
            PackageError: a glob matches nothing: the archive is not what the profile thinks.
        """
        found: dict[str, int] = {}
        for glob in globs:
            matching = self._match(glob)
            if not matching:
                raise PackageError(f"{self.name} has no member {glob!r}")
            found |= matching
        return dict(sorted(found.items()))

    def _match(self, glob: str) -> dict[str, int]:
        outer, _, inner = glob.rpartition("!")
        if not outer:
            sizes = list_members(self.path, self.name)
            return {name: size for name, size in sizes.items() if fnmatch.fnmatchcase(name, inner)}
        sizes = list_members(io.BytesIO(self.read(outer)), outer)
        return {f"{outer}!{name}": size for name, size in sizes.items() if fnmatch.fnmatchcase(name, inner)}

    def read(self, member: str) -> bytes:
        """A member's content.

        Raises:
            DamagedError: it cannot be read (its checksum is wrong, or it is cut off).
        """
        outer, _, name = member.rpartition("!")
        try:
            if outer:
                if outer not in self._inner:  # kept: its members are read one after another
                    self._inner = {outer: self.read(outer)}
                return read_member(io.BytesIO(self._inner[outer]), outer, name)
            return read_member(self.path, self.name, name)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, KeyError) as error:
            raise DamagedError(
                f"{self.name}: {member} cannot be read ({error}). It was left as it is."
            ) from error


def read_member(path: Path | io.BytesIO, name: str, member: str) -> bytes:
    if name.endswith(ZIP_SUFFIXES):
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    with open_tar(path) as archive:
        handle = archive.extractfile(member)
        if handle is None:
            raise KeyError(member)
        return handle.read()


def hash_files(files: Iterator[tuple[str, bytes]]) -> str:
    """SHA-256 over names and contents, in the order given."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
