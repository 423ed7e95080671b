"""What checkpoints a stage has, for people: listing, checking, making room."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.checkpoint.chain import CHECKPOINTS, check
from pretrain.checkpoint.folder import EXTRA, MANIFEST, RECORD, list_checkpoints, step_of, verify
from pretrain.checkpoint.retention import MILESTONES, is_milestone, last_good, leftovers, superfluous
from pretrain.config import GuardConfig
from stemma.core.artifact import SCRATCH
from stemma.core.errors import DamagedError
from stemma.core.files import read_json, read_jsonl

JOB = "job.json"  # of ``pretrain.launch``, in the scratch folder
WHOLE = ("checkpoint", "milestone", "last")  # kinds that one can go on from


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
        state_sha256: of parameters and optimizer state, "" where not recorded, or not readable.
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
    """Everything in a training stage's folder that is or was a checkpoint, oldest first, oddities last.

    What a stage in training deletes meanwhile is left out.
    """
    found = []
    for folder, kind in _folders(stage):
        with contextlib.suppress(FileNotFoundError):
            found.append(_found(folder, kind))
    return found


def _folders(stage: Path) -> Iterator[tuple[Path, str]]:
    """Folders of checkpoints and their kinds, in the order of ``survey``."""
    working, (keep_every, _) = stage / SCRATCH / "checkpoint", kept_by_profile(stage)
    named = [(folder, "milestone") for folder in list_checkpoints(stage / MILESTONES)]
    for folder in list_checkpoints(working):
        named.append((folder, "milestone" if is_milestone(step_of(folder), keep_every) else "checkpoint"))
    yield from sorted(named, key=lambda one: step_of(one[0]))
    if (stage / "checkpoint" / EXTRA).is_file():
        yield stage / "checkpoint", "last"
    for folder in leftovers(working):
        yield folder, "set aside" if folder.suffix == ".damaged" else "unfinished"


def whole(stage: Path) -> dict[int, Found]:
    """Checkpoints of a stage that one can go on from, by step."""
    return {found.step: found for found in survey(stage) if found.kind in WHOLE}


def examine(stage: Path) -> list[Checked]:
    """Read every file of every checkpoint of a stage, follow its chain of hashes, and compare the two.

    What a stage in training deletes meanwhile is left out.
    """
    chain = stage / CHECKPOINTS
    broken = _problem(check, chain)
    chained = {} if broken else {line["step"]: line["state_sha256"] for line in read_jsonl(chain)}
    found = []
    for one in survey(stage):
        if one.kind in WHOLE:
            problem = _problem(verify, one.folder)
            if not problem and one.state_sha256 != chained.get(one.step, one.state_sha256):
                problem = f"{one.folder} holds another state of step {one.step} than {chain} was written for"
            found.append(Checked(one.folder, f"step {one.step}, {one.kind}", problem))
    found = [checked for checked in found if checked.path.exists()]
    return [*found, Checked(chain, "chain of hashes", broken)] if chain.exists() else found


def prunable(stage: Path, keep: int, milestones: bool) -> list[Found]:
    """What of a stage in training can be deleted without losing the way back. Reads the newest checkpoints.

    Args:
        stage: its work folder. Of a finished stage all that is left belongs to the artifact.
        keep: how many stay: the newest that is whole, and those before it. What a rewind may have to go back
            to from there stays too.
        milestones: milestones may go too.

    Raises:
        DamagedError: not one checkpoint is whole, so that every one may still be of use.
    """
    working = stage / SCRATCH / "checkpoint"
    there = list_checkpoints(working)
    good = last_good(there)
    if there and good is None:
        raise DamagedError(f"not one checkpoint in {working} is whole; nothing was deleted")
    keep_every, reach = kept_by_profile(stage)
    usable = [folder for folder in there if good is not None and step_of(folder) <= step_of(good)]
    doomed = {*superfluous(usable, keep, 0 if milestones else keep_every, reach), *leftovers(working)}
    return [one for one in survey(stage) if one.folder in doomed]


def kept_by_profile(stage: Path) -> tuple[int, int]:
    """``keep_every`` and ``guards.reach`` of a stage in training; 0 if it is finished."""
    job = stage / SCRATCH / JOB
    training = read_json(job)["training"] if job.exists() else {}
    return training.get("keep_every", 0), GuardConfig.model_validate(training.get("guards", {})).reach


def _found(folder: Path, kind: str) -> Found:
    record, manifest = folder / RECORD, folder / MANIFEST
    named = re.search(r"step-(\d+)", folder.name)
    return Found(
        folder,
        kind,
        int(named[1]) if named else int(_field(folder / EXTRA, "extra", "step") or 0),
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        manifest.stat().st_mtime if manifest.exists() else None,
        _field(record, "state_sha256") or "",
    )


def _field(path: Path, *names: str) -> Any:
    """A field of a JSON file; None if it cannot be read, which ``examine`` says more of."""
    try:
        value = read_json(path)
        for name in names:
            value = value[name]
    except (DamagedError, FileNotFoundError, KeyError):
        return None
    return value


def _problem(look: Callable[[Path], object], path: Path) -> str:
    try:
        look(path)
    except DamagedError as error:
        return str(error)
    return ""
