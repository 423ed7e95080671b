"""What a person sees in a terminal: a line per finished stage, a moving line for the current one."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stemma.core.progress import BEGIN, FAILED, SAY, SEALED, SKIPPED, STEP, Event

QUIET_INTERVAL = 10.0  # seconds between progress lines where nothing can move (a pipe, a CI log)


def console() -> Console:
    """A console wide enough for the tables when the output is not a terminal; text like ``:cat:`` stays."""
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else 132, highlight=False, emoji=False, soft_wrap=not terminal)


def duration(seconds: float) -> str:
    """Seconds as people write them: ``4.2 s``, ``3 m 07 s``, ``2 h 05 m``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} m"


def figures(metrics: dict[str, Any]) -> list[str]:
    """The figures of a progress event that fit on its line."""
    parts = []
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.3f}")
    if "reward" in metrics:
        parts.append(f"reward {metrics['reward']:.3f}")
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tok/s")
    return parts


class TerminalListener:
    """A progress listener for people. A context manager, so that the moving line is taken away again."""

    def __init__(self, target: Console, total: int = 0) -> None:
        self.console = target
        self.total = total  # nodes of the run, for "3/21"
        self.done = 0
        self.live = target.is_terminal
        self.spoken = 0.0
        self.bar = Progress(
            TextColumn("[bold cyan]{task.fields[stage]:<16}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>6,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            TextColumn("[green]{task.fields[headline]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=target,
            transient=True,
        )
        self.task: Any = None

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        if self.live:
            self.bar.stop()

    def __call__(self, event: Event) -> None:
        if event.kind == BEGIN:
            self._clear()
            self.spoken = time.monotonic()
            note = f" ({event.text})" if event.text else ""
            self.console.print(f"[dim]{self._place()}[/] [bold]{event.stage}[/]{note}")
        elif event.kind == STEP:
            self._step(event)
        elif event.kind == SAY:
            self.console.print(f"        [dim]{event.stage}:[/] {event.text}")
        elif event.kind == SEALED:
            self._clear()
            self.done += 1
            seconds = duration(event.metrics.get("seconds", 0.0))
            self.console.print(f"[green]  done[/]  {event.text}  [dim]{seconds}[/]")
        elif event.kind == SKIPPED:
            self.console.print(
                f"[dim]{self._place()}[/] [bold]{event.stage}[/] [dim]is there and intact: {event.text}[/]"
            )
            self.done += 1
        elif event.kind == FAILED:
            self._clear()
            self.console.print(f"[red]  failed[/]  {event.stage}: {event.text}")

    def _place(self) -> str:
        return f"{self.done + 1:>2}/{self.total}" if self.total else "  "

    def _clear(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def _step(self, event: Event) -> None:
        shown = "  ".join(figures(event.metrics)) or event.text
        if self.live:
            if self.task is None:
                self.task = self.bar.add_task("", total=event.total, stage="", unit="", headline="")
            self.bar.update(
                self.task,
                completed=event.step,
                total=event.total,
                headline=shown,
                unit=event.unit,
                stage=event.stage,
            )
        elif time.monotonic() - self.spoken >= QUIET_INTERVAL:
            self.spoken = time.monotonic()
            self.console.print(f"        {event.stage}: {event.step:,}/{event.total:,} {event.unit}  {shown}")
