"""Archives of package registries: fetched by the registry's own client, pinned by SHA-256.

An archive is data here: nothing in it is installed. What a wheel is for (interpreter, platform) is taken from
its file name, so that every machine fetches the same bytes.
"""

import fcntl
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import sha256_file, sync_folder

CONNECT_SECONDS = 20
FETCH_SECONDS = 600


class PackageError(StemmaError):
    """A registry answered, or an archive is there, but it has not what the profile pins."""


class OutOfReach(Exception):
    """No registry answered (or the run is offline): the archive cannot be had now. Carries the reason."""


def fetch(
    registry: str, package: str, version: str, archive: str, sha256: str, cache: Path, offline: bool = False
) -> Path:
    """Return the path of a pinned archive in the cache, fetching it if it is not there.

    Args:
        registry: ``pypi``, ``npm`` or ``debian``.
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
    with locked(cache / "locks" / archive):  # several sources may share one; it is fetched once
        return fetch_locked(registry, package, version, target, sha256, offline)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file, against threads and processes; the kernel releases it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def fetch_locked(registry: str, package: str, version: str, target: Path, sha256: str, offline: bool) -> Path:
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
    prefix = f".fetch-{target.name}-"
    for left in target.parent.glob(f"{escape(prefix)}*"):  # by a killed run: nobody else has the lock
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
        CLIENTS[registry](package, version, target.name, Path(folder))
        fetched = Path(folder) / target.name
        if not fetched.exists():
            names = sorted(path.name for path in Path(folder).iterdir())
            raise PackageError(
                f"{package} {version} gave {names}, the profile names the archive {target.name!r}"
            )
        found = sha256_file(fetched)
        if found != sha256:
            raise DamagedError(
                f"{target.name}, fetched from the {registry} registry, has SHA-256 {found}; the profile pins "
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


def apt_download(package: str, version: str, archive: str, folder: Path) -> None:
    """Fetch a .deb with apt-get, from the archives this machine's apt knows.

    Unlike the other registries, a Debian archive drops old versions, and each release has its own: a version
    that is not there says something about this machine, not about the profile.
    """
    if shutil.which("apt-get") is None:
        raise OutOfReach("apt-get is not installed, and this source is a Debian package")
    command = ["apt-get", "download", "-q", "-o", f"Acquire::http::Timeout={CONNECT_SECONDS}"]
    code, output = run_client([*command, "-o", "Acquire::Retries=0", f"{package}={version}"], folder)
    if code != 0:
        errors = [line.strip() for line in output.splitlines() if line.startswith("E:")]
        raise OutOfReach(
            f"apt-get could not fetch {package} {version}: {'; '.join(errors) or last_line(output)}"
        )


CLIENTS: dict[str, Callable[[str, str, str, Path], None]] = {
    "pypi": pip_download,
    "npm": npm_pack,
    "debian": apt_download,
}


def run_client(command: list[str], folder: Path | None = None) -> tuple[int, str]:
    """Run a registry client, in a folder if it writes where it stands; return exit status and output."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # its messages are read
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
            cwd=folder,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise OutOfReach(f"{Path(command[0]).name} did not finish within {FETCH_SECONDS} s") from error
    return done.returncode, done.stdout + done.stderr


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def last_error(text: str) -> str:
    """The line that lists the versions there are; pip prints it before its closing line."""
    return next(line.strip() for line in text.splitlines() if "from versions:" in line)


def read_member(archive: Path, member: str) -> bytes:
    """A file's content out of a fetched wheel, zip or tarball.

    Raises:
        DamagedError: the archive cannot be read.
        PackageError: it has no such member, or is no kind of archive this function reads.
    """
    try:
        if archive.name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as zipped:
                return zipped.read(member)
        if archive.name.endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")):
            with tarfile.open(archive) as tarred:
                stream = tarred.extractfile(member)
                if stream is not None:
                    return stream.read()
                raise KeyError(member)
    except KeyError as error:
        raise PackageError(f"{archive.name} has no file {member!r}") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise DamagedError(f"{archive} cannot be read ({error}). It was left as it is.") from error
    raise PackageError(f"{archive.name} is neither a wheel, a zip nor a tarball; no file is read out of it")
