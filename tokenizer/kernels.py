"""Numba's compiler, with a cache on disk that no change of our code makes stale.

Numba compiles a cached kernel again when the file it stands in has changed. A kernel also contains those it
calls and the constants it names, from other files, and changes there go unnoticed: the old machine code runs
on. So the kernels share one folder named by what all their sources hash to, and any change gives another
folder. Nor is a file there ever written for another version, which a process killed in between would leave
behind a new index.
"""

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.misc.appdirs import AppDirs

PACKAGE = Path(__file__).parent
SOURCES = ("splitting/*.py", "encoding/*.py", "learning/*.py", "config.py", "kernels.py")
KEPT = 4  # folders: other branches and versions, which may be in use


def sources_hash(package: Path = PACKAGE) -> str:
    """SHA-256 of every file that a kernel or what it names may stand in, 64 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def cache_folder(places: Sequence[Path], version: str) -> Path | None:
    """The folder of a version in the first place that can be written to; None if none can.

    Where it is new, all but the newest few of other versions go.
    """
    for place in places:
        folder = place / f"stemma-kernels-{version[:16]}"
        try:
            new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            if new:
                by_age = sorted(place.glob("stemma-kernels-*"), key=lambda path: path.stat().st_mtime)
                for old in by_age[:-KEPT]:
                    shutil.rmtree(old, ignore_errors=True)  # who still runs that version compiles again
        except OSError:
            continue
        return folder
    return None


def _places() -> list[Path]:
    """Where Numba itself would look: what NUMBA_CACHE_DIR says, beside the code, the user's cache."""
    given = [Path(config.CACHE_DIR)] if config.CACHE_DIR else []
    return [*given, PACKAGE / "__pycache__", Path(AppDirs("numba", False).user_cache_dir)]


FOLDER = cache_folder(_places(), sources_hash())
if FOLDER is None:
    warnings.warn(
        "no folder for compiled kernels can be written to, so every process compiles them again (about half "
        f"a minute). Set NUMBA_CACHE_DIR to one that can; tried {', '.join(map(str, _places()))}.",
        RuntimeWarning,
        stacklevel=2,
    )


def njit(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit``, which takes the same; what it caches goes to ``FOLDER``."""
    options["cache"] = FOLDER is not None

    def compiled(function: Callable[..., Any]) -> Any:
        before = config.CACHE_DIR  # read when a kernel is defined; other packages' are not ours to move
        config.CACHE_DIR = str(FOLDER or before)
        try:
            return numba.njit(*signature, **options)(function)
        finally:
            config.CACHE_DIR = before

    return compiled
