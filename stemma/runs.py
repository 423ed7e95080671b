"""Runs as they lie on the disk: their records and their artifacts."""

from pathlib import Path
from typing import Any

from stemma.core.artifact import Artifact, Store
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json
from stemma.nodes import in_order

RUN_RECORD = "run.json"


def run_lock(store: Store, name: str) -> Path:
    """What a process holds while it makes a run."""
    return store.root / ".locks" / f"run {name}.lock"


def open_run(store: Store, name: str) -> dict[str, Artifact]:
    """The sealed artifacts of a run by node name, in the order they are made.

    Raises:
        StemmaError: there is no such run; lists those there are.
    """
    return _open(store, name)[0]


def open_work(store: Store, name: str) -> dict[str, Path]:
    """The folders of a run's nodes that have begun and are not sealed: being made, or interrupted.

    What is in there is as a crash would leave it: only what stages write atomically, or line by line, can be
    read.

    Raises:
        StemmaError: there is no such run; lists those there are.
    """
    return _open(store, name)[1]


def _open(store: Store, name: str) -> tuple[dict[str, Artifact], dict[str, Path]]:
    made = read_record(store, name)["nodes"]
    found: dict[str, Artifact] = {}
    working: dict[str, Path] = {}
    for node in in_order(made):
        current = {str(artifact) for artifact in found.values()}
        # What still stands for an earlier profile, because the run has not come to it again, is left out.
        if not current.issuperset(made[node]["identity"]["inputs"].values()):
            continue
        folder = store.folder(node, made[node]["fingerprint"])
        if store.is_sealed(node, made[node]["fingerprint"]):
            found[node] = store.open(node, made[node]["fingerprint"])
        elif folder.is_dir():
            working[node] = folder
    return found, working


def read_record(store: Store, name: str) -> dict[str, Any]:
    """A run's ``run.json``.

    Raises:
        StemmaError: there is no such run; lists those there are.
    """
    path = store.root / name / RUN_RECORD
    if not path.exists():
        known = sorted(found.parent.name for found in store.root.glob(f"*/{RUN_RECORD}"))
        raise StemmaError(
            f"there is no run {name!r} in {store.root}; runs are: {', '.join(known) or '(none)'}"
        )
    return load_record(path)


def load_record(path: Path) -> dict[str, Any]:
    """A ``run.json``.

    Raises:
        DamagedError: it cannot be read, or is something else; says what is lost without it.
    """
    try:
        record = read_json(path)
        kinds = {"profile": str, "nodes": dict}
        if not (isinstance(record, dict) and all(isinstance(record.get(key), kinds[key]) for key in kinds)):
            raise DamagedError(f"{path} is no record of a run. It was left as it is.")
    except DamagedError as error:
        raise DamagedError(
            f"{error} Delete it and run again: what was made is found without it; only what it says of why "
            "something was made anew is lost."
        ) from error
    return record
