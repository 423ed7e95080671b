"""Watches the processes of a training, ends what hangs, and starts again what died.

One attempt is one program (torchrun, or a single rank) with its ranks below it. It is over when the program
ends, when a rank is gone that had not finished, or when no rank has shown a sign of life for
``hang_seconds`` (ten minutes at least, before the first micro batch); then nothing of it is left alive, and
the next attempt goes on from the last checkpoint.

What is started again, and what is not:

- An error that explains itself (a ``StemmaError``; a full disk is told as one), or an exception that a
  program raises about itself (``TypeError``, ``AssertionError``...), would come again: it is final.
- A process that died without a word (SIGKILL, out of memory, a segmentation fault), a hang, and exceptions
  that machines cause (``OSError``, ``MemoryError``, torch's ``RuntimeError`` of lost peers and broken
  devices) are tried again; the same exception after the same step a second time is final.
- ``restarts`` attempts in a row that reach no new checkpoint are the last.

Torch is never imported here. It has watched the ranks of one machine only: of several, each watches its own,
and all start anew because a lost peer fails the others.
"""

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import stemma.core.errors
from pretrain.checkpoint import list_checkpoints, step_of
from pretrain.heartbeat import (
    DONE,
    DUMP_SIGNAL,
    START_SECONDS,
    TRAINING,
    Beat,
    lives,
    read_beats,
    stacks_file,
)
from pretrain.ranklog import own_file
from stemma.core.errors import StageFailed, StemmaError
from stemma.core.files import read_json

POLL_SECONDS = 0.1
LOOK_SECONDS = 0.5  # between looks at the heartbeats
LINGER_SECONDS = 10.0  # for the other ranks to say what they saw, once one is gone
DUMP_SECONDS = 5.0  # for a rank to write its stacks
DEATH_SECONDS = 60.0  # from SIGKILL to the end; the kernel may have to wait for a disk
GRACE_SECONDS = 600  # a large model's checkpoint takes its time; SIGKILL only after that
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before an attempt; doubled from each to the next
LOG_LINES = 25
FRAMES = 8
PASSING = {"OSError", "MemoryError", "RuntimeError"}


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        what: one line.
        detail: a traceback, stacks, or the end of the log.
        error: the error of a rank that explains itself.
        passing: it may not come again.
        raised: the exception, and after which step: equal if it is the same again. None: it was none.
    """

    what: str
    detail: str = ""
    error: StemmaError | None = None
    passing: bool = True
    raised: tuple[Any, ...] | None = None


@dataclass
class Supervisor:
    """Runs a training program until it is done, stopped or hopeless.

    Args:
        name: the stage's, for messages.
        command: the program.
        environment: of the program.
        scratch: where ranks leave heartbeats, stacks and failure records, and ``checkpoint/``.
        log: receives what the ranks print.
        hang_seconds: silence of all ranks that counts as a hang.
        restarts: attempts that may be made again without a new checkpoint in between.
        stopping: set from outside: end the program in good order.
        say: tells people.
        idle: called ten times a second while the program runs.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    scratch: Path
    log: Path
    hang_seconds: float
    restarts: int
    stopping: threading.Event
    say: Callable[[str], None] = lambda text: None
    idle: Callable[[], None] = lambda: None
    restarted: int = field(default=0, init=False)

    def run(self, finished: Callable[[], bool]) -> None:
        """Return when the program ended and ``finished()`` says that it left a result, or when stopped.

        Raises:
            StageFailed: it failed for good; holds what is known of the failures, and says where the log is.
            StemmaError: a rank raised this error, which explains itself.
        """
        failures: list[Failure] = []
        saved = newest_step(self.scratch)
        while True:
            failure = self._attempt()
            if finished():
                return
            if failure.error is not None:
                raise failure.error
            if self.stopping.is_set():
                if failure.raised:  # it may have kept the last checkpoint from being written
                    self.say(f"{failure.what}, while {self.name} was being stopped; see {self.log}")
                return
            same = bool(failures) and failure.raised is not None and failure.raised == failures[-1].raised
            if newest_step(self.scratch) > saved:
                saved, failures = newest_step(self.scratch), []
            failures.append(failure)
            if same or not failure.passing or len(failures) > self.restarts:
                raise StageFailed(self._account(failures, same))
            self._pause(failure, len(failures))
            if self.stopping.is_set():
                return
            self.restarted += 1

    def _attempt(self) -> Failure:
        """Start the program, wait for its end, leave nothing of it alive; say what it was if it failed."""
        for stale in self.scratch.glob("failure.*.json"):
            stale.unlink()
        watch = Watch(self.scratch)
        with open(self.log, "ab") as output:
            log_start = output.tell()
            ends = {path: path.stat().st_size for path in self.scratch.glob("worker.*.log")}
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,
            )
        try:
            self._follow(child, watch, self.idle)
        except BaseException:  # of ``idle``: nothing may go on without us, nor lose what it could save
            self.stopping.set()
            self._follow(child, watch, lambda: None)
            raise
        finally:
            family = _below(child)
            child.kill()  # does nothing if it ended
            child.wait()
            _end(family + watch.processes())
        self.idle()
        if watch.hung is not None:
            with open(self.log, "a") as output:
                output.write(f"{watch.hung.what}; the stacks of its ranks:\n{watch.stacks}\n")
        return self._diagnose(child.returncode, watch, {self.log: log_start, **ends})

    def _follow(self, child: "subprocess.Popen[bytes]", watch: "Watch", idle: Callable[[], None]) -> None:
        """Return when the program ended, or can come to nothing any more.

        Asked to stop, ask the program (its ranks write a checkpoint) and wait on, unless no rank has trained
        yet: there is nothing to save then. A second Ctrl-C ends the waiting.
        """
        asked: float | None = None
        while True:
            try:
                if asked is None and self.stopping.is_set():
                    if not watch.has_trained():
                        return
                    asked = time.monotonic()
                    child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
                idle()
                late = asked is not None and time.monotonic() - asked > GRACE_SECONDS
                if child.poll() is not None or late or watch.over(self.hang_seconds):
                    return
            except KeyboardInterrupt:
                if asked is not None:
                    return
                self.stopping.set()

    def _diagnose(self, code: int, watch: "Watch", ends: Mapping[Path, int]) -> Failure:
        """The cause, of all that is known: ranks that lose a peer fail too, and are not it.

        Args:
            code: of the program's end.
            watch: what was seen.
            ends: of the logs, before the program began.
        """
        records = sorted(map(read_json, self.scratch.glob("failure.*.json")), key=lambda item: item["time"])
        raised = [_raised(record) for record in records]
        bug = next((failure for failure in raised if not failure.passing), None)
        lost = watch.lost({record["rank"] for record in records})
        if found := bug or watch.hung:
            return found
        logs = [own_file(self.scratch, beat.rank) for beat in lost] + [self.log]
        end = next(filter(None, (_end_of(log, ends.get(log, 0)) for log in logs if log.exists())), "")
        if lost:
            names = ", ".join(str(beat) for beat in lost)
            return Failure(f"{names}, died without a word (the out-of-memory killer leaves none)", end)
        if raised:
            return raised[0]
        return Failure(f"its processes ended with {f'signal {-code}' if code < 0 else f'code {code}'}", end)

    def _pause(self, failure: Failure, number: int) -> None:
        """Wait a little longer each time: a lost peer may need a moment."""
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (number - 1))
        step = newest_step(self.scratch)
        source = f"the checkpoint of step {step}" if step >= 0 else "its beginning"
        self.say(
            f"{failure.what}; {self.name} goes on from {source} in {seconds:g} s "
            f"(restart {number} of {self.restarts})"
        )
        try:
            self.stopping.wait(seconds)
        except KeyboardInterrupt:
            self.stopping.set()

    def _account(self, failures: list[Failure], same: bool) -> str:
        last = failures[-1]
        lines = [f"training {self.name} failed, {last.what}"]
        lines += [f"  | {line}" for line in last.detail.splitlines()]
        if same:
            lines.append("It failed in the same way at the same place before; it is not tried again.")
        elif len(failures) > 1:
            lines.append(f"It was started {len(failures)} times and reached no new checkpoint. Before:")
            lines += [f"  {failure.what}" for failure in failures[:-1]]
        return "\n".join([*lines, f"The whole log: {self.log}"])


class Watch:
    """Looks at the heartbeats of one attempt.

    Args:
        scratch: where they are. Those that are there already are of earlier attempts.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.hung: Failure | None = None
        self.stacks = ""
        self._before = {(beat.pid, beat.started) for beat in read_beats(scratch).values()}
        self._beats: dict[int, Beat] = {}
        self._changed = self._looked = time.monotonic()
        self._first_gone: list[Beat] = []
        self._gone_since = 0.0

    def over(self, hang_seconds: float) -> bool:
        """Whether the attempt can come to nothing any more: it hangs, or a rank is gone."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        if (beats := self._read()) != self._beats:
            self._beats, self._changed = beats, now
        patience = max((beat.patience(hang_seconds) for beat in beats.values()), default=START_SECONDS)
        if now - self._changed > max(patience, hang_seconds):
            self._take_stacks(now - self._changed)
            return True
        if not self._first_gone and (gone := self._gone()):
            self._first_gone, self._gone_since = gone, now
        return bool(self._first_gone) and now - self._gone_since > LINGER_SECONDS

    def lost(self, raised: set[int]) -> list[Beat]:
        """The first ranks that ended without having finished, and without an exception to show for it.

        Args:
            raised: ranks that left an exception.
        """
        if not self._first_gone:
            self._beats = self._read()
            self._first_gone = self._gone()
        return [beat for beat in self._first_gone if beat.rank not in raised]

    def has_trained(self) -> bool:
        """Whether some rank came as far as its first micro batch."""
        return any(beat.doing in (TRAINING, DONE) for beat in (self._beats | self._read()).values())

    def processes(self) -> list[psutil.Process]:
        """The ranks that live on this machine."""
        return [process for beat in self._read().values() if (process := beat.process())]

    def _read(self) -> dict[int, Beat]:
        return {
            rank: beat
            for rank, beat in read_beats(self.scratch).items()
            if (beat.pid, beat.started) not in self._before
        }

    def _gone(self) -> list[Beat]:
        return [
            beat
            for beat in self._beats.values()
            if beat.is_local and beat.doing != DONE and beat.process() is None
        ]

    def _take_stacks(self, silence: float) -> None:
        """Have every rank here write down where it is."""
        found = {beat: _stacks(self.scratch, beat) for beat in self._beats.values() if beat.is_local}
        self.stacks = "\n".join(f"{beat}:\n{text}" for beat, text in found.items())
        known = "; ".join(map(str, self._beats.values())) or "no rank had begun"
        detail = "\n".join(f"{beat}:\n{_main_thread(text)}" for beat, text in found.items())
        self.hung = Failure(f"no rank did anything for {silence:.0f} s: {known}", detail)


def newest_step(scratch: Path) -> int:
    """Step of the newest checkpoint of an unfinished stage; -1 without one."""
    return max(map(step_of, list_checkpoints(scratch / "checkpoint")), default=-1)


def _stacks(scratch: Path, beat: Beat) -> str:
    """What a rank's threads do, or why it does not say."""
    process = beat.process()
    if process is None:
        return "  its process is gone"
    path = stacks_file(scratch, beat.rank)
    try:
        process.send_signal(DUMP_SIGNAL)
        deadline, size = time.monotonic() + DUMP_SECONDS, 0
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            if (grown := path.stat().st_size) and grown == size:
                return path.read_text(errors="replace")
            size = grown
        return f"  it does not answer; the kernel says it is {process.status()}"
    except psutil.NoSuchProcess:
        return "  its process ended meanwhile"


def _main_thread(stacks: str) -> str:
    """The top of the stack of the thread that took the signal: Python's main thread."""
    _, mark, rest = stacks.partition("Current thread")
    return "\n".join((mark + rest).splitlines()[: 1 + FRAMES]) if mark else stacks


def _raised(record: dict[str, Any]) -> Failure:
    """The failure a rank left behind; its traceback says more than torchrun's account of it in the log."""
    if "StemmaError" in record["kinds"]:
        kind = getattr(stemma.core.errors, record["error"], StemmaError)
        return Failure(record["message"], error=kind(record["message"]))
    what = f"rank {record['rank']}: {record['error']}: {record['message']}"
    return Failure(
        what,
        "\n".join(record["traceback"].splitlines()[-LOG_LINES:]),
        passing=not PASSING.isdisjoint(record["kinds"]),
        raised=(record["error"], record["message"], record["step"]),
    )


def _end_of(log: Path, start: int) -> str:
    with open(log, "rb") as handle:
        handle.seek(start)
        return "\n".join(handle.read().decode(errors="replace").splitlines()[-LOG_LINES:])


def _below(child: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    try:
        return psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(processes: Sequence[psutil.Process]) -> None:
    """Kill processes and wait for their end: a rank of a former attempt may not write beside the next one's.

    Raises:
        StageFailed: one does not end; it would.
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + DEATH_SECONDS
    alive = [process for process in processes if lives(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(0.01)
        alive = [process for process in alive if lives(process)]
    if alive:
        listed = ", ".join(str(process.pid) for process in alive)
        raise StageFailed(
            f"process {listed} was killed and does not end (the kernel waits for a disk or a device). Run "
            "the same command again once it is gone."
        )
