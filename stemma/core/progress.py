"""Progress: what a stage tells the world while it works.

A stage calls ``progress.step(...)`` and ``progress.say(...)``; listeners (a terminal, a Prefect artifact, a
log file) receive ``Event`` values. A stage that works in a child process hands the child an ``EventFile`` and
forwards what appears there with ``EventTail``.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BEGIN, STEP, SAY, SEALED, SKIPPED, FAILED = "begin", "step", "say", "sealed", "skipped", "failed"
LOG = "log"  # a line that a process of the stage printed: for a log, not for a terminal


@dataclass(frozen=True)
class Event:
    """Something that happened. ``step`` of ``total`` counts ``unit``s; ``metrics`` are floats or strings."""

    stage: str
    kind: str
    text: str = ""
    step: int = 0
    total: int = 0
    unit: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


Listener = Callable[[Event], None]


class Progress:
    """Fans events of one stage out to listeners."""

    def __init__(self, stage: str, listeners: list[Listener] | None = None) -> None:
        self.stage = stage
        self.listeners = listeners if listeners is not None else []

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def step(self, step: int, total: int, unit: str = "steps", text: str = "", **metrics: Any) -> None:
        """Report that ``step`` of ``total`` is done."""
        self.emit(Event(self.stage, STEP, text, step, total, unit, metrics))

    def say(self, text: str, **metrics: Any) -> None:
        """Report something a person should read."""
        self.emit(Event(self.stage, SAY, text, metrics=metrics))

    def log(self, text: str) -> None:
        """Pass on a line that a process of the stage printed."""
        self.emit(Event(self.stage, LOG, text))

    def mark(self, kind: str, text: str = "", **metrics: Any) -> None:
        """Report a change of state (begin, sealed, skipped, failed)."""
        self.emit(Event(self.stage, kind, text, metrics=metrics))


class EventFile:
    """A listener that appends events to a JSON-lines file: how a child process reports to its parent."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (lives as long as self)

    def __call__(self, event: Event) -> None:
        self.handle.write(json.dumps(asdict(event)) + "\n")


class EventTail:
    """Reads events that another process appends to a file; ``poll`` returns new ones, whole lines only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.exists() else 0

    def poll(self) -> list[Event]:
        if not self.path.exists():
            return []
        with open(self.path, "rb") as handle:
            handle.seek(self.offset)
            data = handle.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        events = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # torn: its writer was killed, or the disk full
                events.append(Event(**json.loads(line)))
        return events
