"""What checkpoints a stage has, for people: listing, checking, making room."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretrain.checkpoint.chain import CHECKPOINTS, check
from pretrain.checkpoint.folder import EXTRA, MANIFEST, RECORD, list_checkpoints, step_of, verify
from pretrain.checkpoint.retention import (
    MILESTONES,
    is_milestone,
    last_good,
    leftovers,
    superfluous,
)
from stemma.core.artifact import SCRATCH
from stemma.core.errors import DamagedError
from stemma.core.files import read_json

JOB = "job.json"  # of ``pretrain.launch``, in the scratch folder


@dataclass(frozen=True)
class Found:
    """One checkpoint, or what is left of one.

    Attributes:
        folder: where it lies.
        kind: ``checkpoint``, ``milestone``, ``last`` (of a finished stage), ``set aside`` (it was damaged) or
            ``unfinished`` (what a killed save or deletion left).
        step: optimizer steps it stands for.
        bytes: of all files in it.
        saved: when it was sealed, seconds since the epoch; None if it never was.
        state_sha256: of parameters and optimizer state, "" where not recorded.
    """

    folder: Path
    kind: str
    step: int
    bytes: int
    saved: float | None
    state_sha256: str


@dataclass(frozen=True)
class Checked:
    """A checkpoint, or a stage's chain of hashes, and what is wrong with it ("" if nothing is)."""

    path: Path
    what: str
    problem: str


def survey(stage: Path) -> list[Found]:
    """Everything in a training stage's folder that is or was a checkpoint, oldest first, oddities last."""
    working, keep_every = stage / SCRATCH / "checkpoint", milestones_every(stage)
    found = [_found(folder, "milestone") for folder in list_checkpoints(stage / MILESTONES)]
    for folder in list_checkpoints(working):
        kind = "milestone" if is_milestone(step_of(folder), keep_every) else "checkpoint"
        found.append(_found(folder, kind))
    found.sort(key=lambda one: one.step)
    if (stage / "checkpoint" / EXTRA).is_file():
        found.append(_found(stage / "checkpoint", "last"))
    for folder in leftovers(working):
        found.append(_found(folder, "set aside" if folder.suffix == ".damaged" else "unfinished"))
    return found


def examine(stage: Path) -> list[Checked]:
    """Read every file of every checkpoint of a stage and follow its chain of hashes."""
    results = [
        Checked(one.folder, f"step {one.step}, {one.kind}", _problem(verify, one.folder))
        for one in survey(stage)
        if one.kind not in ("set aside", "unfinished")
    ]
    chain = stage / CHECKPOINTS
    return (
        [*results, Checked(chain, "chain of hashes", _problem(check, chain))] if chain.exists() else results
    )


def prunable(stage: Path, keep: int, milestones: bool) -> list[Found]:
    """What of a stage in training can be deleted without losing the way back. Reads the newest checkpoints.

    Args:
        stage: its work folder. Of a finished stage all that is left belongs to the artifact.
        keep: how many of the newest stay; the newest that is whole stays in any case.
        milestones: milestones may go too.

    Raises:
        DamagedError: not one checkpoint is whole, so that every one may still be of use.
    """
    working = stage / SCRATCH / "checkpoint"
    there = list_checkpoints(working)
    good = last_good(there)
    if there and good is None:
        raise DamagedError(f"not one checkpoint in {working} is whole; nothing was deleted")
    doomed = set(superfluous(there, keep, 0 if milestones else milestones_every(stage))) - {good}
    doomed |= set(leftovers(working))
    return [one for one in survey(stage) if one.folder in doomed]


def milestones_every(stage: Path) -> int:
    """The profile's ``keep_every`` of a stage in training; 0 if it is finished."""
    job = stage / SCRATCH / JOB
    return int(read_json(job)["training"]["keep_every"]) if job.exists() else 0


def _found(folder: Path, kind: str) -> Found:
    record, manifest = folder / RECORD, folder / MANIFEST
    named = re.search(r"step-(\d+)", folder.name)
    return Found(
        folder,
        kind,
        int(named[1]) if named else int(read_json(folder / EXTRA)["extra"]["step"]),
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        manifest.stat().st_mtime if manifest.exists() else None,
        read_json(record)["state_sha256"] if record.exists() else "",
    )


def _problem(look: Callable[[Path], object], path: Path) -> str:
    try:
        look(path)
    except DamagedError as error:
        return str(error)
    return ""
