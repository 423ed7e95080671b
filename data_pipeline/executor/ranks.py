"""What all executors share: a pipeline, its ranks, and which of them are done.

A rank is one datatrove pipeline over one shard. datatrove marks it in ``completions/`` when it has ended;
that folder knows nothing of who ran it, so a run that began on one executor can go on with another. What a
rank writes depends on its number alone, so every executor gives the same bytes.
"""

import contextlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import dill
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from fsspec.spec import AbstractBufferedFile

from stemma.core.errors import StemmaError
from stemma.core.files import NO_ROOM, NOT_ALLOWED


class StorageError(StemmaError):
    """The work cannot go on: no room to write, or no permission to read or write."""


@contextlib.contextmanager
def storage(folder: Path, what: str) -> Iterator[None]:
    """Say what to do where a disk is full or a folder is read-only; other errors pass.

    Args:
        folder: where the work goes on, for the message.
        what: the phase that writes.

    Raises:
        StorageError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM | NOT_ALLOWED:
            raise
        raise StorageError(explain(error, folder, what)) from error


def explain(error: OSError, folder: Path, what: str) -> str:
    """The message of a ``StorageError``."""
    where = str(error.filename or being_written(error) or folder)
    if error.errno in NOT_ALLOWED:
        return (
            f"{what}: {where} may not be used ({os.strerror(error.errno or 0)}). Nothing was sealed. "
            "Give this user the right to read or write it, or choose another root, and run again."
        )
    return (
        f"{what}: no room to write {where} ({os.strerror(error.errno or 0)}). Nothing was sealed. Free space "
        f"on the disk of {folder} (or raise the quota) and run again: finished shards stay, the rest is done "
        "anew."
    )


def being_written(error: BaseException) -> str:
    """The file that a writer had open when it failed: libraries raise ENOSPC without its name."""
    traceback = error.__traceback__
    found = ""
    while traceback is not None:
        for name, value in traceback.tb_frame.f_locals.items():
            if isinstance(value, (io.IOBase, AbstractBufferedFile)) or name == "file_handler":
                value = getattr(value, "name", None) or getattr(value, "path", None)
            elif name not in ("path", "temporary"):
                continue
            if isinstance(value, (str, Path)) and os.path.isabs(value):
                found = str(value)
        traceback = traceback.tb_next
    return found


def run_rank(pickled: bytes, rank: int) -> int:
    """Run one rank of a pickled executor; return the rank.

    Raises:
        StorageError: the disk is full or read-only.
    """
    executor: LocalPipelineExecutor = dill.loads(pickled)
    folder = Path(executor.logging_dir.path)
    with storage(folder.parent, f"{folder.name}, shard {rank}"):
        executor._run_for_rank(rank)
    return rank


class Executor(ABC):
    """Runs pipelines, one after the other.

    Attributes:
        logs: folder of datatrove's logs and completion marks, a folder in it per pipeline.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs

    def run(
        self,
        name: str,
        pipeline: list[PipelineStep],
        tasks: int,
        done: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Run a pipeline on ranks ``0..tasks-1``; ranks completed by an earlier try are left alone.

        Args:
            name: of the log folder; one pipeline has one name in a work folder.
            pipeline: datatrove steps.
            tasks: number of ranks; part of the result's layout, so no function of the worker count.
            done: called with the number of ranks that are done, after each.

        Raises:
            StageFailed: a worker was killed.
            StorageError: the disk is full or read-only.
            Exception: what a rank raised, after the ranks that were not begun are cancelled.
        """
        executor = LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=tasks, logging_dir=str(self.logs / name)
        )
        ranks = executor.get_incomplete_ranks()
        if not ranks:
            return
        count = tasks - len(ranks)
        for _ in self.execute(name, dill.dumps(executor), ranks):
            count += 1
            done(count)

    @abstractmethod
    def execute(self, name: str, pickled: bytes, ranks: list[int]) -> Iterator[int]:
        """Run ranks of a pickled executor; yield each when it has ended."""
