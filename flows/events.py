"""Progress events into what Prefect shows: log lines, a live progress bar, a report that grows."""

import contextvars
import time
from collections.abc import Callable

from flows.board import Board, Logger
from stemma.core.progress import BEGIN, LOG, SAY, SEALED, SKIPPED, STEP, Event
from stemma.terminal import duration, figures

INTERVAL, LONGEST_INTERVAL = (
    1.0,
    10.0,
)  # seconds between two updates of the bar: longer as the stage gets older
LOG_INTERVAL = 10.0  # seconds between two log lines of progress: the history that the bar does not keep
REPORT_INTERVAL = 60.0  # seconds between two reports of a stage that trains, and so many times what one takes


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants them: lower-case letters, digits and dashes."""
    return "-".join(parts).replace(".", "-").replace("_", "-")


class TaskListener:
    """A progress listener for one node; make it inside the node's task run.

    Args:
        node: its name.
        logger: the task run's.
        board: shows the bar and the report; without one there are only log lines.
        report: writes the report of a node that trains, given its optimizer steps and, once it has ended
            before it was made, how.
    """

    def __init__(
        self,
        node: str,
        logger: Logger,
        board: Board | None = None,
        report: Callable[[int, str], str] | None = None,
    ) -> None:
        self.node, self.logger, self.board, self.report = node, logger, board, report
        self.began = self.logged = time.monotonic()
        self.updated = self.reported = 0.0
        self.pause = REPORT_INTERVAL / 4  # the first report comes soon
        self.is_reported = False
        self.latest: Event | None = None
        self.pace = Pace()
        self.skipped = False  # it was made already
        self.context = contextvars.copy_context()

    def __call__(self, event: Event) -> None:
        """Take an event from any thread: a stage's library may report from one that knows no task run."""
        if event.stage == self.node:
            self.context.copy().run(self._receive, event)

    def _receive(self, event: Event) -> None:
        if event.kind == BEGIN:
            self.reported = time.monotonic()
            self.logger.info("%s begins%s", self.node, f": {event.text}" if event.text else "")
        elif event.kind == STEP:
            self._step(event)
        elif event.kind in (SAY, LOG):
            self.logger.info("%s: %s", self.node, event.text)
        elif event.kind == SEALED:
            if self.latest:
                self._show(100.0, "done")
            seconds = duration(event.metrics.get("seconds", 0.0))
            self.logger.info("%s is done after %s: %s", self.node, seconds, event.text)
        elif event.kind == SKIPPED:
            self.skipped = True
            self.logger.info("%s is there and intact: %s", self.node, event.text)

    def ended(self, how: str) -> None:
        """Show that the node was not made: nothing may go on saying that it is being made.

        Args:
            how: what became of it.
        """
        self.logger.warning("%s %s", self.node, how)
        if self.latest:
            self._show(self._percent(self.latest), "stopped")
            if self.is_reported:
                self._report(self.latest.total, how)

    def _step(self, event: Event) -> None:
        self.latest = event
        now = time.monotonic()
        self.pace.reached(event.step, now)
        if now - self.updated >= min(LONGEST_INTERVAL, max(INTERVAL, (now - self.began) / 60)):
            self._show(self._percent(event))
        if now - self.logged >= LOG_INTERVAL:
            self.logged = now
            self.logger.info("%s: %s", self.node, self._line())
        if "loss" in event.metrics and now - self.reported >= self.pause:
            self._report(event.total)
            self.reported = time.monotonic()
            self.pause = REPORT_INTERVAL * max(1.0, self.reported - now)

    def _report(self, total: int, ended: str = "") -> None:
        if self.board and self.report:
            self.is_reported = True
            about = "not made" if ended else "being made"
            self.board.markdown(artifact_key("stage", self.node), self.report(total, ended), about)

    def _show(self, percent: float, how: str = "") -> None:
        if self.board is None:
            return
        self.updated = time.monotonic()
        text = " · ".join(filter(None, [self.node, how, self._line(left=not how)]))
        self.board.progress(artifact_key("progress", self.node), percent, text)

    def _percent(self, event: Event) -> float:
        return min(100.0, 100.0 * event.step / max(event.total, 1))

    def _line(self, left: bool = True) -> str:
        """Where the stage is: ``120 of 300 steps · 245,760 tokens · loss 3.210 · 3 m 20 s left``."""
        event = self.latest
        if event is None:
            return ""
        parts = [f"{event.step:,} of {event.total:,} {event.unit}"]
        metrics = event.metrics
        if "tokens" in metrics:
            parts.append(f"{metrics['tokens']:,} tokens")
        parts += figures(metrics)
        if event.text:
            parts.append(event.text)
        remaining = self.pace.left(event.total) if left and event.step < event.total else None
        if remaining is not None:
            parts.append(f"{duration(remaining)} left")
        return " · ".join(parts)


class Pace:
    """How long the rest takes, at the speed since this attempt began."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.last = (0, 0.0)

    def reached(self, step: int, now: float) -> None:
        """A step is done; ``now`` in seconds of a steady clock."""
        if self.first is None or step < self.last[0]:  # it began, or went back to a checkpoint
            self.first = (step, now)
        self.last = (step, now)

    def left(self, total: int) -> float | None:
        """Seconds until ``total`` steps; None before that can be told."""
        if self.first is None or self.last[0] == self.first[0]:
            return None
        seconds = (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])
        return seconds * (total - self.last[0])
