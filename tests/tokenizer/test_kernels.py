"""The cache of compiled kernels: never stale, wherever the package is installed."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
from numba.core.registry import CPUDispatcher

from tokenizer import kernels
from tokenizer.kernels import FOLDER, KEPT, PACKAGE, SOURCES, cache_folder, njit, sources_hash

IMPORTS = re.compile(r"^from tokenizer\.kernels import ", re.MULTILINE)
NUMBA = re.compile(r"^\s*(?:import numba|from numba import .*\bn?jit\b)", re.MULTILINE)
REPOSITORY = PACKAGE.parent


def kernel_files() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if IMPORTS.search(path.read_text())]


def test_every_kernel_is_cached_by_all_sources() -> None:
    hashed = {path for pattern in SOURCES for path in PACKAGE.glob(pattern)}
    assert {*kernel_files()} <= hashed
    rooms = [path for path in REPOSITORY.iterdir() if (path / "__init__.py").exists()]
    plain = [path for room in rooms for path in room.rglob("*.py") if NUMBA.search(path.read_text())]
    assert plain == [PACKAGE / "kernels.py"], "these bypass tokenizer.kernels, so their cache can be stale"
    found = 0
    for path in kernel_files():
        module = importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
        for kernel in vars(module).values():
            if isinstance(kernel, CPUDispatcher):
                assert FOLDER is not None
                assert Path(kernel.stats.cache_path).is_relative_to(FOLDER)
                found += 1
    assert found > 20


@pytest.mark.parametrize("changed", ["splitting/scan.py", "splitting/unicode.py", "config.py"])
def test_a_change_anywhere_among_the_sources_gives_another_folder(tmp_path: Path, changed: str) -> None:
    copy = tmp_path / "tokenizer"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert sources_hash(copy) == sources_hash()
    with open(copy / changed, "a") as file:
        file.write("\n")
    assert sources_hash(copy) != sources_hash()


def test_the_first_place_that_can_be_written_to_is_taken(tmp_path: Path) -> None:
    refused = tmp_path / "file"
    refused.touch()
    version = sources_hash()
    folder = cache_folder([refused, tmp_path / "a" / "b", tmp_path / "c"], version)
    assert folder is not None
    assert folder.parent == tmp_path / "a" / "b"
    assert cache_folder([refused, tmp_path / "a" / "b"], version) == folder
    assert cache_folder([refused], version) is None


def test_old_versions_do_not_pile_up(tmp_path: Path) -> None:
    for version in range(KEPT + 3):
        newest = cache_folder([tmp_path], f"{version:064d}"[::-1])
    assert len(list(tmp_path.iterdir())) == KEPT
    assert newest in tmp_path.iterdir()


def test_without_any_folder_kernels_run_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "FOLDER", None)

    @njit(cache=True, nogil=True)
    def plus_one(value: int) -> int:
        return value + 1

    assert plus_one(1) == 2
    assert plus_one.stats.cache_path is None
