"""Which checkpoints are kept: the newest few, and milestones for good."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pretrain.checkpoint.folder import list_checkpoints, step_of, verify
from stemma.core.errors import DamagedError

MILESTONES = "milestones"  # of a finished stage, in its artifact


def is_milestone(step: int, keep_every: int) -> bool:
    """Whether a step's checkpoint is kept for good; 0 keeps none."""
    return keep_every > 0 and step > 0 and step % keep_every == 0


def superfluous(folders: Iterable[Path], keep: int, keep_every: int, reach: int = 0) -> list[Path]:
    """Those of some checkpoints that need not be kept, oldest first.

    Args:
        folders: named by ``step_folder``, oldest first.
        keep: how many of the newest stay.
        keep_every: milestones stay.
        reach: one stays that is at least so many steps older than the newest, to go back to.
    """
    known = list(folders)
    old_enough = [folder for folder in known if step_of(folder) <= step_of(known[-1]) - reach]
    return [
        folder
        for folder in known[: -max(keep, 1)]
        if not is_milestone(step_of(folder), keep_every) and folder not in old_enough[-1:]
    ]


def last_good(folders: Iterable[Path]) -> Path | None:
    """The newest checkpoint that is whole; reads every file of it."""
    for folder in reversed(list(folders)):
        try:
            verify(folder)
        except DamagedError:
            continue
        return folder
    return None


def remove(folders: Iterable[Path]) -> None:
    """Delete checkpoints. Each loses its name first: a half-deleted one is never taken for one."""
    for folder in folders:
        doomed = folder
        if not folder.name.startswith("."):
            doomed = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        shutil.rmtree(doomed)


def leftovers(root: Path) -> list[Path]:
    """What killed saves and deletions left, and damaged checkpoints that were set aside."""
    return sorted(path for kind in ("old", "tmp", "damaged") for path in root.glob(f".step-*.{kind}"))


def prune(root: Path, keep: int, keep_every: int = 0, reach: int = 0) -> None:
    """Delete all but the newest ``keep`` checkpoints, the milestones, and one that lies ``reach`` steps back.

    One process calls it.
    """
    remove(superfluous(list_checkpoints(root), keep, keep_every, reach))
    remove(leftover for leftover in leftovers(root) if leftover.suffix != ".damaged")
