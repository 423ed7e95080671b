"""What the ranks of a stage print: into a file of each, and from there into the stage's progress.

A rank of several writes to a file of its own, without a pipe in between: whoever is killed, what was printed
is there, and it is known who said it. Passed on is no more than people can read; the end always is.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LOG = "worker.log"  # of the only rank, else of torchrun and of ranks that have not begun
BURST, RATE = 60, 5.0  # lines at once, and a second
LOOK_SECONDS = 0.5  # between looks at the files
ENDING = 25  # lines that are passed on at the end, however many there were
LONGEST = 500  # characters of a line
PIECE = 1 << 20  # bytes read at a time


def own_file(scratch: Path, rank: int) -> Path:
    """The file of one rank of several."""
    return scratch / f"worker.{rank}.log"


def write_to_own_file(scratch: Path, rank: int) -> None:
    """Let this process, and libraries in native code, print to the rank's own file from now on."""
    handle = os.open(own_file(scratch, rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(handle, number)
    os.close(handle)


@dataclass
class _File:
    """One file that is followed: what of it was read, and the beginning of a line that has no end yet."""

    path: Path
    prefix: str
    offset: int
    begun: bytes = b""


@dataclass
class RankLogs:
    """Follows the logs of a stage's ranks, from their present ends on.

    Args:
        scratch: the stage's scratch folder.
        several: there are several ranks.
        say: receives lines, with who said them.
        now: a steady clock, seconds.
    """

    scratch: Path
    several: bool
    say: Callable[[str], None]
    now: Callable[[], float] = time.monotonic
    held: deque[str] = field(default_factory=lambda: deque(maxlen=ENDING), init=False)
    withheld: int = field(default=0, init=False)
    _files: dict[Path, _File] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._room, self._since = float(BURST), self.now()
        for path in self._found():
            self._files[path] = _File(path, self._prefix(path), path.stat().st_size)

    def poll(self, force: bool = False) -> None:
        """Pass on what was printed since, as much as people can read; cheap when called often."""
        now = self.now()
        if now - self._since < LOOK_SECONDS and not force:
            return
        self._room = min(float(BURST), self._room + RATE * (now - self._since))
        self._since = now
        for line in self._lines():
            if self._room >= 1 and not self.withheld:
                self._room -= 1
                self.say(line)
            else:
                self.withheld += 1
                self.held.append(line)
        if self.withheld and self._room >= BURST / 2:
            self._release()

    def close(self) -> None:
        """Pass on the end, a line without a newline included."""
        self.poll(force=True)
        for file in self._files.values():
            if file.begun:
                self.withheld += 1
                self.held.append(_readable(file.prefix, file.begun))
        self._release()

    def _release(self) -> None:
        if more := self.withheld - len(self.held):
            self.say(f"… {more:,} lines are in {self.scratch}/worker*.log only")
        for line in self.held:
            self.say(line)
        self._room -= len(self.held)
        self.withheld = 0
        self.held.clear()

    def _lines(self) -> Iterator[str]:
        for path in self._found():
            file = self._files.setdefault(path, _File(path, self._prefix(path), 0))
            if path.stat().st_size <= file.offset:
                continue
            with open(path, "rb") as handle:
                handle.seek(file.offset)
                while data := handle.read(PIECE):
                    file.offset += len(data)
                    *whole, file.begun = (file.begun + data).split(b"\n")
                    file.begun = file.begun[-PIECE:]
                    yield from (_readable(file.prefix, line) for line in whole if line.strip())

    def _found(self) -> list[Path]:
        return sorted(self.scratch.glob("worker*.log"))

    def _prefix(self, path: Path) -> str:
        if path.name == LOG:
            return "torchrun" if self.several else "rank 0"
        return f"rank {path.name.split('.')[1]}"


def _readable(prefix: str, line: bytes) -> str:
    """One line as text: what a progress bar has overwritten left out, cut to a readable length."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace").rstrip()
    return f"[{prefix}] {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}"
