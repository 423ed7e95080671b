"""Running model-written Python without trusting it: one interface, backends by name.

`bwrap` gives code a full Python in namespaces of its own; `monty` gives it a Python subset without any
system, for machines that forbid user namespaces. `auto` takes the first that works here, found out by running
something. There is no unprotected backend.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from stemma.core.errors import StemmaError


class SandboxUnavailable(StemmaError):
    """No sandbox can run here, or not the one that was asked for."""


@dataclass(frozen=True)
class Limits:
    """What one snippet may use.

    Attributes:
        timeout_s: seconds of computing. Waiting is allowed for longer (`wall_s`), so that a busy machine does
            not turn a result into a time-out.
        memory_mb: address space (bwrap) or heap (monty), in MiB.
        output_limit: bytes kept of each of stdout and stderr; a snippet that writes more is stopped.
    """

    timeout_s: float = 5.0
    memory_mb: int = 256
    output_limit: int = 8192

    @property
    def wall_s(self) -> float:
        """Seconds by the clock after which a snippet is ended, whatever it does."""
        return 3 * self.timeout_s + 5


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Snippet:
    """Python to run, with its standard input and the text files in its working folder, by relative name."""

    code: str
    stdin: str = ""
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SandboxResult:
    """What came of one snippet.

    Attributes:
        stdout: what it printed, at most `Limits.output_limit` bytes.
        stderr: its traceback and warnings, likewise.
        exit_code: 0 when it ran to its end; 1 after an uncaught exception; negative for a signal.
        timed_out: it was stopped at `Limits.timeout_s`.
        truncated: it was stopped for writing more than `Limits.output_limit`.
        value: `repr` of its last line where that is an expression with a value, as an interactive Python
            would show.
    """

    stdout: str
    stderr: str
    exit_code: int
    timed_out: bool = False
    truncated: bool = False
    value: str | None = None

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and not self.timed_out and not self.truncated


class Sandbox(ABC):
    """Runs snippets so that they cannot reach anything outside, nor one another.

    Attributes:
        name: the backend.
        full_python: whether the whole standard library is there.
    """

    name: str
    full_python: bool

    @abstractmethod
    def run_many(self, snippets: Sequence[Snippet], limits: Limits = DEFAULT_LIMITS) -> list[SandboxResult]:
        """Run snippets one after another, each in a fresh interpreter state, and return their results in
        order.

        Starting a sandbox costs more than running a small snippet, so a batch is much cheaper than single
        calls.
        """

    def run_python(
        self,
        code: str,
        stdin: str = "",
        files: dict[str, str] | None = None,
        timeout_s: float = 5.0,
        memory_mb: int = 256,
        output_limit: int = 8192,
    ) -> SandboxResult:
        """Run one snippet; the arguments are the fields of `Snippet` and `Limits`."""
        return self.run_many([Snippet(code, stdin, files or {})], Limits(timeout_s, memory_mb, output_limit))[
            0
        ]


def _open_bwrap() -> Sandbox:
    from environments.sandbox_bwrap import BwrapSandbox

    return BwrapSandbox()


def _open_monty() -> Sandbox:
    from environments.sandbox_monty import MontySandbox

    return MontySandbox()


BACKENDS = {"bwrap": _open_bwrap, "monty": _open_monty}
"""Constructors by name, best first; `SandboxUnavailable` or `ImportError` where one cannot work."""


def _probe(sandbox: Sandbox) -> None:
    """Run something, and require that it can compute but not read a file that exists everywhere outside."""
    result = sandbox.run_python("print(6 * 7)", timeout_s=20)
    if not result.ok or result.stdout != "42\n":
        raise SandboxUnavailable((result.stderr or result.stdout).strip() or f"exit code {result.exit_code}")
    leak = sandbox.run_python("print(open('/etc/passwd').read())", timeout_s=20)
    if leak.exit_code == 0:
        raise SandboxUnavailable("code inside could read /etc/passwd")


@functools.cache
def sandbox_report() -> tuple[tuple[str, bool, str], ...]:
    """Try every backend for real, once per process: `(name, usable, why or why not)`, best first."""
    report = []
    for name, opener in BACKENDS.items():
        try:
            sandbox = opener()
            _probe(sandbox)
        except ImportError as error:
            report.append((name, False, f"not installed ({error})"))
        except (SandboxUnavailable, OSError) as error:
            report.append((name, False, str(error)))
        else:
            what = (
                "the whole of Python"
                if sandbox.full_python
                else "a Python subset without access to the system"
            )
            report.append((name, True, f"ran a probe; {what}"))
    return tuple(report)


def open_sandbox(name: str = "auto") -> Sandbox:
    """Open a sandbox that was seen to work.

    Args:
        name: a key of `BACKENDS`, or `auto` for the first that works.

    Raises:
        SandboxUnavailable: unknown name, or it does not work here; says why for every backend that was tried.
    """
    if name != "auto" and name not in BACKENDS:
        raise SandboxUnavailable(f"sandbox {name!r} is unknown; choose one of: auto, {', '.join(BACKENDS)}")
    tried = [row for row in sandbox_report() if name in ("auto", row[0])]
    for backend, usable, _ in tried:
        if usable:
            return BACKENDS[backend]()
    reasons = "\n".join(f"  {backend}: {reason}" for backend, _, reason in tried)
    raise SandboxUnavailable(
        f"no sandbox for model-written code works here, and it is never run without one\n{reasons}\n"
        "Allow unprivileged user namespaces (for bwrap), or install pydantic-monty."
    )
