"""An earlier corpus that this one goes on from: what it has is taken over as it is, only the rest is read.

Its documents keep their ids and their split; new documents are compared with its kept index, and lose. That
is only right if its sources, their filters, what documents are compared with and the hashes of the index are
still the same, which ``check_base`` makes sure of.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.config import CorpusConfig, DedupConfig
from data_pipeline.dedup.index import parameters
from stemma.core.artifact import Artifact, Store, open_artifact
from stemma.core.config import differences, identity
from stemma.core.errors import StemmaError
from stemma.core.files import read_json

RUN_RECORD = "run.json"
PER_SOURCE = ("documents", "rejects")
IDENTITY = "identity"  # key of an entry of sources.json: what must not change


class BaseMismatch(StemmaError):
    """The corpus to go on from does not fit the profile."""


def open_base(name: str, store: Store, kind: str, recipe: int) -> Artifact:
    """The corpus that a profile's ``extends`` names.

    Args:
        name: path of a sealed corpus, or the name of a run in the store.
        store: where runs are.
        kind, recipe: of the stage that is to go on from it.

    Raises:
        BaseMismatch: there is no such corpus, or it was made by another version of the software.
    """
    record = store.root / name / RUN_RECORD
    try:
        if record.is_file():
            artifact = store.open("corpus", read_json(record)["nodes"]["corpus"]["fingerprint"])
        else:
            artifact = open_artifact(Path(name).absolute())
    except (FileNotFoundError, KeyError) as error:
        runs = sorted(path.parent.name for path in store.root.glob(f"*/{RUN_RECORD}"))
        raise BaseMismatch(
            f"extends: {name!r} is neither a run with a finished corpus nor the folder of one; "
            f"runs in {store.root}: {', '.join(runs) or '(none)'}"
        ) from error
    found = (artifact.kind, artifact.manifest.get("recipe"))
    if found != (kind, recipe):
        raise BaseMismatch(
            f"extends: {artifact.path} is of kind {found[0]}, recipe {found[1]}; this version goes on from "
            f"{kind}, recipe {recipe}. Make that corpus anew."
        )
    return artifact


def base_sources(base: Artifact) -> dict[str, dict[str, Any]]:
    """The sources a corpus was made of: id -> what must not change; those left out are not in it."""
    entries = read_json(base.file("sources.json"))
    return {entry["id"]: entry[IDENTITY] for entry in entries if IDENTITY in entry}


def source_identity(config: CorpusConfig, name: str, content: str) -> dict[str, Any]:
    """What two corpora must have in common to share a source's documents.

    Args:
        config: of the corpus.
        name: the source's id.
        content: digest of what the source has; "" if it cannot be reached.
    """
    source = config.sources[name]
    same: dict[str, Any] = {"source": identity(source), "content": content}
    if source.use == "train":
        same["filters"] = identity(config.filters[source.filters])
    return same


def check_base(base: Artifact, config: CorpusConfig, found: Mapping[str, str]) -> None:
    """Make sure that a profile can go on from a corpus.

    Args:
        base: the corpus.
        config: the profile's.
        found: digest of every source that can be reached, by id.

    Raises:
        BaseMismatch: says what differs.
    """
    problems: list[str] = []
    before = base_sources(base)
    for name in sorted(before.keys() & config.sources.keys()):
        now = source_identity(config, name, found.get(name, before[name]["content"]))
        problems += [f"sources.{name}: {line}" for line in differences(before[name], now)]
    checked = {name for name, entry in before.items() if entry["source"]["use"] != "train"}
    wanted = {name for name, source in config.sources.items() if source.use != "train" and name in found}
    problems += [
        f"sources.{name}: its documents were compared with this evaluation set; new ones must be, too: list "
        "it, and have it in reach"
        for name in sorted(checked - wanted)
    ] + [
        f"sources.{name}: this evaluation set is new; its documents were not compared with it"
        for name in sorted(wanted - checked)
    ]
    made = base.manifest["config"]
    if checked | wanted:
        problems += differences(made["decontamination"], identity(config.decontamination), "decontamination")
    index = parameters(DedupConfig(**made["dedup"]))
    problems += differences(index, parameters(config.dedup), "dedup")
    if problems:
        raise BaseMismatch(
            f"extends: the corpus {base.path} cannot be taken over:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nUndo these changes, or leave `extends` out and make the corpus anew."
        )


def inherited_counts(base: Artifact, name: str) -> Path:
    """The file of a source's whole counts."""
    return base.file(f"statistics/{name}.json")


def take_over(base: Artifact, folder: Path) -> None:
    """Put a corpus's documents and rejects into another's folder: links where the disk allows, or copies."""
    for relative in base.manifest["files"]:
        if relative.split("/")[0] in PER_SOURCE:
            share(base.path / relative, folder / relative)


def share(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it; artifacts are never written to."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        draft = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, draft)
        draft.replace(target)
