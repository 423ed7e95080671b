"""Stages: pure descriptions of work that turns artifacts into an artifact, and ``execute``, which runs one.

*Re-running is resuming*: ``execute`` returns at once where the artifact is sealed, and hands an unsealed work
folder back to its stage, which continues from whatever it trusts in there.
"""

import contextlib
import fcntl
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TextIO

from pydantic import Field

from stemma.core.artifact import MANIFEST, SCRATCH, STAGE_RECORD, Artifact, Store, verify_artifact
from stemma.core.config import Config, digest, identity
from stemma.core.errors import DamagedError, LockedError, StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.progress import BEGIN, FAILED, SEALED, SKIPPED, Listener, Progress


class Execution(Config):
    """How a run is carried out on this machine. Nothing here changes a result's identity."""

    workers: int = Field(2, ge=1, description="parallel processes for data work")
    threads: int = Field(2, ge=1, description="OpenMP threads per training process")
    tensor_parallel: int = Field(1, ge=1, description="ranks that share each layer (TP)")
    pipeline_parallel: int = Field(1, ge=1, description="ranks that share the depth (PP)")
    context_parallel: int = Field(1, ge=1, description="ranks that share each sequence (CP)")
    data_parallel: int = Field(1, ge=1, description="replicas of the model (DP)")
    sequence_parallel: bool = Field(
        False, description="tensor-parallel ranks share the positions between layers too (SP)"
    )
    nodes: int = Field(1, ge=1, description="machines; above 1, torchrun is started once on each")
    launcher: Literal["local", "srun"] = Field(
        "local",
        description="who starts torchrun on each machine: `local` starts it on this one (start the others by "
        "hand), `srun` on all nodes of the Slurm job that this runs in",
    )
    rendezvous: str = Field(
        "", description="host:port of the first machine, for nodes above 1; `srun` finds its own"
    )
    restarts: int = Field(2, ge=0, description="times a training whose process died or hung is started again")
    hang_seconds: float = Field(
        1800.0, gt=0, description="seconds without a step after which training counts as hung"
    )
    sandbox: str = Field("auto", description="backend for model-written code: auto, bwrap, monty")
    offline: bool = Field(False, description="do not ask a package registry")
    lock_timeout: float = Field(
        3600.0, ge=0, description="seconds to wait for another process on the same stage"
    )

    @property
    def ranks(self) -> int:
        """Number of training processes."""
        model = self.tensor_parallel * self.pipeline_parallel * self.context_parallel
        return model * self.data_parallel


@dataclass(frozen=True)
class Workspace:
    """What a running stage gets: where to write, how to report, how to execute.

    Attributes:
        path: the artifact's folder. Everything in it but ``scratch`` is sealed when ``run`` returns.
        cache: shared by all artifacts, for what can be fetched again (downloads).
        progress: where to report to.
        execution: worker counts and the like.
    """

    path: Path
    cache: Path
    progress: Progress
    execution: Execution

    @property
    def scratch(self) -> Path:
        """A folder that survives a crash and is dropped at sealing."""
        folder = self.path / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder


class Stage(ABC):
    """One node's work. Subclasses set ``kind`` and ``recipe`` and write ``run``.

    Attributes:
        kind: what sort of work this is; part of the fingerprint.
        recipe: raise it when the code's *result* changes for the same config and inputs.
    """

    kind: ClassVar[str]
    recipe: ClassVar[int] = 1

    def __init__(self, name: str, config: Config, inputs: Mapping[str, Artifact]) -> None:
        self.name = name
        self.config = config
        self.inputs = dict(inputs)
        self.resolved: dict[str, Any] = {}

    def resolve(self, cache: Path, execution: Execution, progress: Progress) -> None:
        """Look at the world outside the store and put what the result depends on into ``self.resolved``.

        Called before the fingerprint is taken, and cheap when repeated. A corpus made without a registry in
        reach is thereby another artifact than one made with it, and a changed interpreter gives a changed
        corpus.
        """
        return

    @abstractmethod
    def run(self, work: Workspace) -> dict[str, Any]:
        """Fill ``work.path`` and return the summary: the figures a person wants to see, as plain JSON.

        Called again on the same folder after a crash; must continue or start over, never trust half-written
        files.
        """

    def verify(self, work: Workspace) -> None:
        """Check the result before it is sealed; raise to refuse it."""
        return

    def identity(self) -> dict[str, Any]:
        """What the fingerprint is computed from."""
        return {
            "kind": self.kind,
            "recipe": self.recipe,
            "config": identity(self.config),
            "inputs": {role: artifact.fingerprint for role, artifact in self.inputs.items()},
            "resolved": self.resolved,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ``identity()``."""
        return digest(self.identity())


@contextlib.contextmanager
def lock(path: Path, timeout: float, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel releases it when the process dies.

    Raises:
        LockedError: another process held it for longer than ``timeout`` seconds.
        StemmaError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise StemmaError(
            f"{error.filename or path} cannot be written ({error.strerror}). Give this user the right to "
            "write there, make room, or choose another root, and run again."
        ) from error
    with handle:
        deadline = time.monotonic() + timeout
        waiting = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not (owner := _owner(handle)):  # somebody only looked who holds it
                    time.sleep(0.001)
                    continue
                if time.monotonic() >= deadline:
                    raise LockedError(
                        f"{path.stem} is being made by process {owner}; waited {timeout:.0f} s"
                    ) from error
                if not waiting:
                    progress.say(f"waiting: process {owner} is making {path.stem}")
                    waiting = True
                time.sleep(0.2)
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def lock_path(folder: Path) -> Path:
    """The lock of an artifact's folder: held while a process makes it."""
    return folder.parent / ".locks" / f"{folder.name}.lock"


def holder(path: Path) -> str:
    """Id of the process that holds a lock; "" if nobody does."""
    try:
        with open(path) as handle:
            return _owner(handle)
    except FileNotFoundError:
        return ""


def _owner(handle: TextIO) -> str:
    """``holder`` of an open lock file."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        return handle.read().strip() or "unknown"
    fcntl.flock(handle, fcntl.LOCK_UN)
    return ""


def execute(
    stage: Stage,
    store: Store,
    execution: Execution | None = None,
    listeners: list[Listener] | None = None,
    reason: str = "",
) -> Artifact:
    """Make a stage's artifact, or return it if it is already sealed and intact.

    Args:
        stage: what to make.
        store: where artifacts live.
        execution: worker counts and the like.
        listeners: receive progress events.
        reason: why the stage has to run, said at its beginning.

    Raises:
        DamagedError: a sealed artifact, or the record of an unsealed one, is not what was written.
        LockedError: another process makes the same artifact and did not finish in time.
    """
    execution = execution or Execution()
    progress = Progress(stage.name, listeners)
    stage.resolve(store.cache, execution, progress)
    fingerprint = stage.fingerprint
    folder = store.folder(stage.name, fingerprint)
    with lock(lock_path(folder), execution.lock_timeout, progress):
        if (folder / MANIFEST).exists():
            artifact = store.open(stage.name, fingerprint, verify=True)
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)  # a crash between sealing and cleaning up
            progress.mark(SKIPPED, str(artifact), **artifact.summary)
            return artifact
        record = {"name": stage.name, "fingerprint": fingerprint, **stage.identity()}
        resumed = (folder / STAGE_RECORD).exists()
        if resumed and (found := read_json(folder / STAGE_RECORD)).get("fingerprint") != fingerprint:
            raise DamagedError(f"{folder} holds work of {found.get('fingerprint')}, not of {fingerprint}")
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed:
            write_json(folder / STAGE_RECORD, record)
        progress.mark(BEGIN, reason or ("continuing" if resumed else ""))
        started = time.monotonic()
        work = Workspace(folder, store.cache, progress, execution)
        try:
            summary = stage.run(work)
            stage.verify(work)
        except BaseException as error:
            progress.mark(FAILED, f"{type(error).__name__}: {error}".splitlines()[0])
            raise
        seconds = round(time.monotonic() - started, 3)  # of this attempt: a killed one left no clock
        inputs = {
            role: {"name": artifact.name, "fingerprint": artifact.fingerprint}
            for role, artifact in stage.inputs.items()
        }
        facts = {"name": stage.name, "summary": summary, "seconds": seconds, "sealed_at": time.time()}
        artifact = store.seal(folder, {**stage.identity(), "inputs": inputs}, fingerprint, **facts)
        verify_artifact(artifact)
        progress.mark(SEALED, str(artifact), seconds=seconds, **summary)
        return artifact
