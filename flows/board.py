"""What a flow or task run pins up in the UI: artifacts that are made once and brought up to date in place.

A thread of its own talks to the server. A server that is restarted, or gone, makes Prefect's client wait and
try again for minutes; a training must not stand still for that. What is not sent yet when something newer
comes under the same key is never sent.
"""

import contextvars
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"
CLOSE_SECONDS = 120.0  # for what still waits at the end; a server needs less to come back
HURRY_SECONDS = 5.0  # the same for who was stopped, or failed


class Board:
    """Make it inside the flow or task run that its artifacts are to belong to. A context manager, which waits
    at its end until all is sent.

    Args:
        logger: is told once if the server takes nothing; the work goes on.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.made: dict[str, UUID] = {}
        self._waiting: dict[str, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._closed = self._complained = False
        self._sending = ""
        # Threads know nothing of the run that they work for, unless they are told.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._send,), name="board", daemon=True)
        self._thread.start()

    def progress(self, key: str, percent: float, text: str) -> None:
        """A bar with a line of text."""

        def send() -> None:
            if key in self.made:
                update_progress_artifact(self.made[key], percent, description=text)
            else:
                self.made[key] = create_progress_artifact(percent, key=key, description=text)

        self._post(key, send)

    def markdown(self, key: str, text: str, description: str) -> None:
        """A page."""

        def send() -> None:
            if key in self.made:
                update = ArtifactUpdate(data=text, description=description)
                with get_client(sync_client=True) as client:
                    client.update_artifact(self.made[key], update)
            else:
                self.made[key] = create_markdown_artifact(text, key=key, description=description)

        self._post(key, send)

    def table(self, key: str, rows: list[dict[str, Any]], description: str) -> None:
        """A table; each call makes a new one."""
        self._post(key, lambda: create_table_artifact(rows, key=key, description=description) and None)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait until all is sent, but not for ever."""
        with self._changed:
            if self._closed:
                return
            self._changed.wait_for(lambda: not self._waiting and not self._sending, seconds)
            if left := [*filter(None, [self._sending]), *self._waiting]:
                self.logger.warning("the Prefect server did not take: %s", ", ".join(left))
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close() if error is None else self.close(HURRY_SECONDS)

    def _post(self, key: str, send: Callable[[], None]) -> None:
        with self._changed:
            self._waiting[key] = send
            self._changed.notify_all()

    def _send(self) -> None:
        while True:
            with self._changed:
                self._sending = ""
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                key = next(iter(self._waiting))
                send = self._waiting.pop(key)
                self._sending = key
            try:
                send()
            except (
                Exception
            ) as error:  # of a client, a server, a proxy: the board is there to look at, no more
                if not self._complained:
                    self.logger.warning(
                        "the Prefect server does not take %s (%r); the work goes on", key, error
                    )
                self._complained = True
