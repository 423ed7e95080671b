"""The monty backend: a Python subset interpreted in Rust, in a worker process, with no system to reach.

For machines that forbid user namespaces. It knows a few modules (math, re, json, datetime, ...), classes and
most syntax, but no generators, and no standard library beyond that.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pydantic_monty as monty

from environments.sandbox import DEFAULT_LIMITS, Limits, Sandbox, SandboxResult, Snippet

WORK = "/sandbox"


class MontySandbox(Sandbox):
    """Snippets run in sessions of a pool of worker processes; one starts in well under a millisecond."""

    name = "monty"
    full_python = False

    def __init__(self) -> None:
        self._owner = 0
        self._workers: monty.Monty | None = None

    def _pool(self) -> monty.Monty:
        """The pool of worker processes, started when first needed; a forked process needs one of its own."""
        if self._workers is None or self._owner != os.getpid():
            self._workers = monty.Monty().__enter__()
            self._owner = os.getpid()
        return self._workers

    def run_many(self, snippets: Sequence[Snippet], limits: Limits = DEFAULT_LIMITS) -> list[SandboxResult]:
        """See `Sandbox.run_many`."""
        return [self._run(snippet, limits) for snippet in snippets]

    def _run(self, snippet: Snippet, limits: Limits) -> SandboxResult:
        bounds = monty.ResourceLimits(
            max_feed_duration_secs=limits.wall_s,  # it has no clock for computing alone
            max_total_sleep_secs=limits.timeout_s,
            max_memory=limits.memory_mb << 20,
        )
        output = {"stdout": "", "stderr": ""}
        overflow = False

        def collect(stream: str, text: str) -> None:
            nonlocal overflow
            if overflow:
                return
            output[stream] += text
            if len(output[stream].encode(errors="replace")) > limits.output_limit:
                overflow = True
                raise MemoryError("output limit")

        lines = iter(snippet.stdin.splitlines())

        def read_line(prompt: str = "") -> str:
            try:
                return next(lines)
            except StopIteration:
                raise EOFError("EOF when reading a line") from None

        value, exit_code, timed_out = None, 0, False
        with tempfile.TemporaryDirectory(prefix="stemma-monty-") as folder:
            for name, text in snippet.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            try:
                with (
                    monty.MountDir(host_path=folder, virtual_path=WORK) as mount,
                    self._pool().checkout(script_name="main.py", limits=bounds) as session,
                ):
                    value = session.feed_run(
                        snippet.code,
                        print_callback=collect,
                        external_lookup={"input": read_line},
                        mount=mount,
                        cwd=WORK,
                    )
            except monty.MontyError as error:
                exit_code = 1
                cause = error.exception()
                timed_out = isinstance(cause, TimeoutError) and not overflow
                show = getattr(error, "display", None)
                output["stderr"] += (show() if show else f"{type(cause).__name__}: {cause}") + "\n"
        kept = {
            name: text.encode(errors="replace")[: limits.output_limit].decode(errors="ignore")
            for name, text in output.items()
        }
        shown = None if value is None else repr(value)
        return SandboxResult(kept["stdout"], kept["stderr"], exit_code, timed_out, overflow, shown)
