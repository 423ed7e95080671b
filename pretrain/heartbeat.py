"""How a training process shows that it lives, and what it is doing when it has gone quiet.

Each rank keeps two files in the stage's scratch folder: ``heartbeat.R``, rewritten in place after every micro
batch and step, and ``stacks.R``, into which it writes the stacks of all its threads on SIGUSR1. Python's
``faulthandler`` does that in C, so also a rank that waits inside a collective or a kernel launch answers.
Beats carry no clock: whoever watches sees that a beat changed, by its own.
"""

import contextlib
import faulthandler
import json
import os
import signal
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from stemma.core.lifeline import started_at

DUMP_SIGNAL = signal.SIGUSR1
TRAINING, DONE = "training", "done"
START_SECONDS = 600.0
"""Imports, the meeting of the ranks and reading a checkpoint may take so long without a sign of life."""

_WIDTH = 512  # every beat overwrites the one before completely


@dataclass(frozen=True)
class Beat:
    """One sign of life.

    Attributes:
        rank: of all ranks of the run.
        node: host name; a process id means something there only.
        pid: the rank's process.
        started: when that process began (``started_at``): process ids are used again.
        doing: what it last said it began.
        step: optimizer steps done; None before the first.
        count: beats so far.
    """

    rank: int
    node: str
    pid: int
    started: float
    doing: str = "starting"
    step: int | None = None
    count: int = 0

    def __str__(self) -> str:
        where = "" if self.step is None else f" after step {self.step}"
        return f"rank {self.rank} (process {self.pid}), {self.doing}{where}"

    def patience(self, hang_seconds: float) -> float:
        """Seconds of silence that are no hang: more before the first micro batch than after it."""
        return hang_seconds if self.doing in (TRAINING, DONE) else max(hang_seconds, START_SECONDS)

    @property
    def is_local(self) -> bool:
        """Whether it is a process of this machine."""
        return self.node == os.uname().nodename

    def process(self) -> psutil.Process | None:
        """The process that beat, if it lives on this machine; a zombie does not."""
        if not self.is_local:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if started_at(process) == self.started and lives(process):
                return process
        return None


class Heartbeat:
    """A rank's side: beats on every call, and answers SIGUSR1 with its stacks from now on.

    Args:
        folder: the stage's scratch folder.
        rank: of all ranks of the run.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._last = Beat(rank, os.uname().nodename, os.getpid(), started_at(psutil.Process()))
        # Not emptied: the first beat covers an older one, and a full disk might not give the room back.
        self._file = os.open(_beat_file(folder, rank), os.O_CREAT | os.O_WRONLY, 0o644)
        self._stacks = open(stacks_file(folder, rank), "wb")  # noqa: SIM115 (faulthandler keeps it)
        faulthandler.register(DUMP_SIGNAL, self._stacks, all_threads=True)
        self.beat()

    @property
    def step(self) -> int | None:
        """Optimizer steps done, as far as it was told."""
        return self._last.step

    def beat(self, step: int | None = None, doing: str | None = None) -> None:
        """Show that some work was finished.

        Args:
            step: optimizer steps done; None: as before.
            doing: what begins now; None: as before.
        """
        self._last = replace(
            self._last,
            step=self._last.step if step is None else step,
            doing=doing or self._last.doing,
            count=self._last.count + 1,
        )
        os.pwrite(self._file, json.dumps(asdict(self._last)).encode().ljust(_WIDTH), 0)


def read_beats(folder: Path) -> dict[int, Beat]:
    """The last beat of every rank that has begun, by rank."""
    found = {}
    for path in folder.glob("heartbeat.*"):
        with contextlib.suppress(ValueError, FileNotFoundError):  # caught while it is written: the next look
            beat = Beat(**json.loads(path.read_bytes()))
            found[beat.rank] = beat
    return dict(sorted(found.items()))


def lives(process: psutil.Process) -> bool:
    """Whether a process can still do something: a zombie is only waited for."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stacks_file(folder: Path, rank: int) -> Path:
    """Where a rank writes the stacks of its threads."""
    return folder / f"stacks.{rank}"


def _beat_file(folder: Path, rank: int) -> Path:
    return folder / f"heartbeat.{rank}"
