"""Progress events into what Prefect shows: log lines and a live progress artifact per stage."""

import contextvars
import logging
import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from stemma.core.progress import BEGIN, FAILED, SAY, SEALED, SKIPPED, STEP, Event
from stemma.terminal import duration, headline

INTERVAL = 1.0  # seconds between two updates of a progress artifact
LOG_INTERVAL = 10.0  # seconds between two log lines of progress: the history that the artifact overwrites


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants them: lower-case letters, digits and dashes."""
    return "-".join(parts).replace(".", "-").replace("_", "-")


class TaskListener:
    """A progress listener for one node; make it inside the node's task run.

    The server is for looking on: where it cannot be reached, that is logged once and the work goes on.
    """

    def __init__(self, node: str, logger: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> None:
        self.node = node
        self.logger = logger
        self.artifact: UUID | None = None
        self.updated = 0.0
        self.logged = time.monotonic()
        self.latest: Event | None = None
        self.unreachable = False
        self.context = contextvars.copy_context()

    def __call__(self, event: Event) -> None:
        """Take an event from any thread: a stage's library may report from one that knows no task run."""
        if event.stage == self.node:
            self.context.copy().run(self._receive, event)

    def _receive(self, event: Event) -> None:
        if event.kind == BEGIN:
            self.logger.info("%s begins%s", self.node, f": {event.text}" if event.text else "")
        elif event.kind == STEP:
            self.latest = event
            if time.monotonic() - self.updated >= INTERVAL:
                self._show(event)
        elif event.kind == SAY:
            self.logger.info("%s: %s", self.node, event.text)
        elif event.kind == SEALED:
            self._show(self.latest, done=True)
            seconds = duration(event.metrics.get("seconds", 0.0))
            self.logger.info("%s is done after %s: %s", self.node, seconds, event.text)
        elif event.kind == SKIPPED:
            self.logger.info("%s is there and intact: %s", self.node, event.text)
        elif event.kind == FAILED:
            if self.latest:
                self._show(self.latest)
            self.logger.error("%s failed: %s", self.node, event.text)

    def _show(self, event: Event | None, done: bool = False) -> None:
        self.updated = time.monotonic()
        percent = 100.0 if done else 0.0
        text = "done"
        if event:
            percent = percent or min(100.0, 100.0 * event.step / max(event.total, 1))
            figures = headline(event.metrics) or event.text
            text = f"{self.node}: {event.step:,} of {event.total:,} {event.unit}" + (
                f", {figures}" if figures else ""
            )
            if time.monotonic() - self.logged >= LOG_INTERVAL:
                self.logged = time.monotonic()
                self.logger.info(text)
        try:
            if self.artifact is None:
                self.artifact = create_progress_artifact(
                    percent, key=artifact_key("progress", self.node), description=text
                )
            else:
                update_progress_artifact(self.artifact, percent, description=text)
        except httpx.HTTPError as error:
            if not self.unreachable:
                self.logger.warning("the Prefect server does not take progress (%s); the work goes on", error)
            self.unreachable = True
