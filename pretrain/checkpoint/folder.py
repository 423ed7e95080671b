"""The files of a checkpoint: where they lie, whether they are whole, what is said about them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrain.checkpoint.pickles import check_index
from stemma.core.config import differences
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, sha256_file, sync_folder, write_json

MANIFEST, MODEL, IDENTITY, EXTRA = "manifest.json", "model.json", "identity.json", "extra.json"
RANDOM, RECORD, STATE = "random.json", "record.json", "state"

Entries = dict[str, dict[str, Any]]


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return root / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a folder that ``step_folder`` named."""
    return int(folder.name.removeprefix("step-"))


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoints below ``root``, oldest first, good or not."""
    return sorted(path for path in root.glob("step-*") if path.is_dir())


def draft_of(folder: Path) -> Path:
    """Where a checkpoint is written before it gets its name; of a killed save it is what is left."""
    return folder.with_name(f".{folder.name}.tmp")


def seal(folder: Path, entries: Entries) -> None:
    """Write the manifest, which makes a whole checkpoint of the files it lists."""
    for inner in sorted({(folder / name).parent for name in entries}):
        sync_folder(inner)
    write_json(folder / MANIFEST, entries)


def entries_of(folder: Path, paths: Iterable[Path]) -> Entries:
    """Flush files to disk and return what the manifest of ``folder`` says of them."""
    found = {}
    for path in sorted(paths):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        found[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    return found


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest, and see that its pickles are harmless.

    Raises:
        DamagedError: names each file that is missing or altered, or whose opening could run a program.
    """
    if not (folder / MANIFEST).is_file():
        raise DamagedError(f"{folder} is not a whole checkpoint: it has no {MANIFEST}")
    problems = []
    for relative, recorded in read_json(folder / MANIFEST).items():
        path = folder / relative
        if not path.is_file():
            problems.append(f"{relative}: missing")
        elif recorded.keys() != {"bytes", "sha256"}:
            problems.append(f"{MANIFEST}: what it says of {relative} cannot be read")
        elif path.stat().st_size != recorded["bytes"]:
            problems.append(f"{relative}: {path.stat().st_size} bytes, saved with {recorded['bytes']}")
        elif sha256_file(path) != recorded["sha256"]:
            problems.append(f"{relative}: its SHA-256 is not the saved one")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise DamagedError(f"{folder} is damaged; it is refused and was left as it is:\n{listed}")
    check_index(folder / STATE)


def check_model(folder: Path, model: dict[str, Any]) -> None:
    """Compare the shape of the model.

    Raises:
        StemmaError: a checkpoint of another shape; says in which fields.
    """
    changed = differences(read_json(folder / MODEL), model)
    if changed:
        raise StemmaError(f"{folder} is of a model of another shape: {'; '.join(changed)}")


def check_identity(folder: Path, expected: dict[str, Any]) -> None:
    """Compare what a checkpoint was trained with and from with what it is to be continued with.

    Raises:
        StemmaError: lists what differs, as ``field: saved -> asked for``.
    """
    changed = differences(read_json(folder / IDENTITY), expected)
    if changed:
        listed = "\n".join(f"  {change}" for change in changed)
        raise StemmaError(
            f"{folder} was trained otherwise than it is to be continued (saved -> asked for):\n{listed}\n"
            "Continue with what it was saved with, or delete the stage's folder to train it anew."
        )


def replace_identity(folder: Path, expected: dict[str, Any]) -> None:
    """Write another identity into a draft of a checkpoint whose files may be shared with the original."""
    manifest = read_json(folder / MANIFEST)
    (folder / MANIFEST).unlink()
    (folder / IDENTITY).unlink()
    write_json(folder / IDENTITY, expected)
    seal(folder, manifest | entries_of(folder, [folder / IDENTITY]))
