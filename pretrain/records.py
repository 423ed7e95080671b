"""What a stage writes down while it trains: receipts, metrics, incidents, what monitors found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.launch import Job
from pretrain.receipts import JsonlLog
from pretrain.sinks import Sink, open_sinks

NAMES = ("receipts", "metrics", "incidents", "monitors")
OFTEN_EMPTY = ("incidents", "monitors")


class Records:
    """The record files of a stage and what shows them. Every rank holds one; rank 0's alone writes.

    Args:
        job: names the stage and its folder.
        rank: of this process.
        step: steps done.
        positions: where each file ended then, by name; of a checkpoint.

    Raises:
        DamagedError: a file does not begin with what the position says.
        StemmaError: figures are to be shown by a package that is not installed.
    """

    def __init__(self, job: Job, rank: int, step: int, positions: Mapping[str, dict[str, Any]]) -> None:
        self.folder = Path(job.path)
        self.logs: dict[str, JsonlLog] = {}
        self.sinks: list[Sink] = []
        if rank == 0:
            self.logs = {name: JsonlLog(self.folder / f"{name}.jsonl", positions.get(name)) for name in NAMES}
            self.sinks = open_sinks(job, step)

    def add(self, name: str, line: dict[str, Any]) -> None:
        """Append a line to one of the files."""
        if self.logs:
            self.logs[name].append(line)

    def show(self, figures: dict[str, Any]) -> None:
        """Append the figures of a step to ``metrics.jsonl`` and show them."""
        self.add("metrics", figures)
        for sink in self.sinks:
            sink.write(figures["step"], figures)

    def sync(self) -> dict[str, dict[str, Any]]:
        """Make everything durable; returns the positions to come back to."""
        return {name: log.sync() for name, log in self.logs.items()}

    def close(self) -> None:
        """Nothing more is written by this process. Safe to repeat."""
        for log in self.logs.values():
            log.close()
        while self.sinks:
            self.sinks.pop().close()

    def finish(self) -> None:
        """The stage is done: files that stayed empty go."""
        self.close()
        for name in OFTEN_EMPTY:
            if name in self.logs and self.logs[name].bytes == 0:
                self.logs[name].path.unlink(missing_ok=True)
