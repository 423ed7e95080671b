"""Artifacts: sealed folders with a manifest, found by name and fingerprint.

Layout of a store::

    <root>/artifacts/<name>-<fingerprint[:12]>/   the files of one artifact
        manifest.json                             written last: its presence seals the artifact
        .scratch/                                 of an unsealed one only: what a stage needs while it works
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemma.core.errors import DamagedError
from stemma.core.files import read_json, sha256_file, sync_folder, write_json

MANIFEST = "manifest.json"
SCRATCH = ".scratch"
STAGE_RECORD = "stage.json"
SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """A sealed, immutable result.

    Attributes:
        name: the pipeline's name of the node that made it, such as ``commonsense``.
        kind: the stage class's kind, such as ``pretrain``.
        fingerprint: SHA-256 over kind, recipe, identity config and the inputs' fingerprints.
        path: its folder.
        manifest: the parsed manifest.
    """

    name: str
    kind: str
    fingerprint: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """The figures its stage returned."""
        return dict(self.manifest["summary"])

    def file(self, relative: str) -> Path:
        """Path of one of its files.

        Raises:
            DamagedError: the manifest does not list it.
        """
        if relative not in self.manifest["files"]:
            raise DamagedError(f"{self.path} has no file {relative!r} in its manifest")
        return self.path / relative

    def __str__(self) -> str:
        return f"{self.name}-{self.fingerprint[:12]}"


def list_files(folder: Path) -> list[Path]:
    """Every regular file below a folder but the manifest and scratch, sorted.

    Raises:
        DamagedError: something is neither a folder nor a regular file (a symbolic link could point out of the
        store).
    """
    found: list[Path] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] == SCRATCH or relative.as_posix() == MANIFEST:
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DamagedError(f"{path} is neither a plain file nor a folder; artifacts hold nothing else")
        if path.is_file():
            found.append(path)
    return found


class Store:
    """A folder of artifacts, plus ``cache/`` for what can be fetched again."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.artifacts = self.root / "artifacts"
        self.cache = self.root / "cache"

    def folder(self, name: str, fingerprint: str) -> Path:
        if not re.fullmatch(r"[a-z0-9_.]+", name):
            raise ValueError(f"artifact name {name!r}: lower-case letters, digits, '_' and '.' only")
        return self.artifacts / f"{name}-{fingerprint[:12]}"

    def is_sealed(self, name: str, fingerprint: str) -> bool:
        return (self.folder(name, fingerprint) / MANIFEST).exists()

    def open(self, name: str, fingerprint: str, verify: bool = False) -> Artifact:
        """Open a sealed artifact; with ``verify``, read every file and compare it with the manifest.

        Raises:
            FileNotFoundError: it is not there, or not sealed.
            DamagedError: its manifest or a file is not what was sealed; says which file and what to do.
        """
        artifact = open_artifact(self.folder(name, fingerprint))
        if artifact.fingerprint != fingerprint:
            raise DamagedError(
                f"{artifact.path / MANIFEST} records {artifact.fingerprint}, expected {fingerprint}. "
                "It was left as it is."
            )
        if verify:
            verify_artifact(artifact)
        return artifact

    def seal(self, folder: Path, identity: Mapping[str, Any], fingerprint: str, **facts: Any) -> Artifact:
        """Hash every file, drop drafts and scratch, write the manifest: from now on it is immutable.

        A draft is what a writer that was killed left before its rename: ``.<name>.tmp``, file or folder.
        """
        for draft in list(folder.rglob(".*.tmp")):
            if draft.is_dir() and not draft.is_symlink():
                shutil.rmtree(draft)
            else:
                draft.unlink(missing_ok=True)
        files = {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in list_files(folder)
        }
        manifest = {"schema": SCHEMA, "fingerprint": fingerprint, **identity, "files": files, **facts}
        write_json(folder / MANIFEST, manifest)
        sync_folder(self.artifacts)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        return open_artifact(folder)


def open_artifact(folder: Path) -> Artifact:
    """Open a sealed artifact by its folder.

    Raises:
        FileNotFoundError: no manifest there.
        DamagedError: the manifest is not readable or lacks a field.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not a sealed artifact: it has no {MANIFEST}")
    manifest = read_json(path)
    fields = ("schema", "name", "kind", "fingerprint", "inputs", "config", "files", "summary")
    missing = [name for name in fields if not isinstance(manifest, dict) or name not in manifest]
    if missing or manifest["schema"] != SCHEMA:
        raise DamagedError(
            f"{path} is not a manifest of schema {SCHEMA} (missing: {missing}). It was left as it is."
        )
    return Artifact(manifest["name"], manifest["kind"], manifest["fingerprint"], folder, manifest)


def verify_artifact(artifact: Artifact) -> None:
    """Compare every file of an artifact with its manifest.

    Raises:
        DamagedError: names each file that is missing, altered or unknown.
    """
    problems = []
    files = artifact.manifest["files"]
    for relative, recorded in files.items():
        path = artifact.path / relative
        if not path.is_file():
            problems.append(f"{relative}: missing")
        elif path.stat().st_size != recorded["bytes"]:
            problems.append(f"{relative}: {path.stat().st_size} bytes, sealed with {recorded['bytes']}")
        elif sha256_file(path) != recorded["sha256"]:
            problems.append(f"{relative}: its SHA-256 is not the sealed one")
    known = set(files)
    problems += [
        f"{relative}: not in the manifest"
        for relative in (path.relative_to(artifact.path).as_posix() for path in list_files(artifact.path))
        if relative not in known
    ]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise DamagedError(
            f"{artifact.path} does not match its manifest; it is refused and was left as it is:\n{listed}\n"
            "To make it anew, delete that folder and run again."
        )
