"""Runs inside the bwrap sandbox: forks one child per snippet, bounds it, and reports what it did.

Standard library only, and little of it: every import delays every sandbox. The request comes marshalled on
stdin (the caller is trusted); replies go to stdout as plain lengths and bytes (what they carry is not).
"""

import ctypes
import marshal
import os
import resource
import select
import signal
import sys
import time

WORK = "/sandbox"
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
PY_ONLY_AST = 0x400  # what ast.PyCF_ONLY_AST is, without importing ast
FILE_LIMIT = 16 << 20  # bytes of one file
VALUE_LIMIT = 4096  # bytes of the last expression's repr
LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before forking: once, not per snippet


class SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def confine(seccomp: bytes, memory_mb: int, timeout_s: float) -> None:
    """Give up rights for good: limits first (the filter forbids changing them), then the filter."""
    # SIGPROF ends it at its CPU time; it can be caught, so a hard limit follows. A busy machine changes
    # neither.
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    seconds = int(timeout_s) + 1
    for name, value in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, FILE_LIMIT),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))
    program = ctypes.create_string_buffer(seccomp, len(seccomp))
    address = SockFprog(len(seccomp) // 8, ctypes.addressof(program))
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or LIBC.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(address), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp was refused")


def run_code(code: str, value_to: int) -> int:
    """Execute a snippet as `__main__`; returns its exit code. Tracebacks begin at the snippet, not here."""
    # a real module, so that pickling, dataclasses and `import __main__` find what the snippet defines
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    space = main.__dict__
    try:
        tree = compile(code, "main.py", "exec", PY_ONLY_AST)
        last = tree.body.pop() if tree.body and type(tree.body[-1]).__name__ == "Expr" else None
        exec(compile(tree, "main.py", "exec"), space)
        if last is not None:
            module = compile("0", "main.py", "eval", PY_ONLY_AST)
            module.body = last.value
            value = eval(compile(module, "main.py", "eval"), space)
            if value is not None:
                os.write(value_to, repr(value).encode(errors="replace")[:VALUE_LIMIT])
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 1
    return 0


def child(
    snippet: tuple, folder: str, pipes: tuple, memory_mb: int, timeout_s: float, seccomp: bytes
) -> None:
    """The forked side: becomes the snippet and never returns."""
    code, stdin, files = snippet
    status = 1
    try:
        os.mkdir(folder)
        os.chdir(folder)
        for name, text in files.items():
            if "/" in name:
                os.makedirs(name.rpartition("/")[0], exist_ok=True)
            with open(name, "w", encoding="utf-8") as handle:
                handle.write(text)
        with open("main.py", "w", encoding="utf-8") as handle:  # so that tracebacks show lines
            handle.write(code)
        with open(".stdin", "wb") as handle:
            handle.write(stdin.encode())
        descriptor = os.open(".stdin", os.O_RDONLY)
        os.unlink(".stdin")
        os.dup2(descriptor, 0)
        os.dup2(pipes[0], 1)
        os.dup2(pipes[1], 2)
        os.dup2(pipes[2], 3)
        os.closerange(4, 256)
        sys.path.insert(0, folder)
        confine(seccomp, memory_mb, timeout_s)
        status = run_code(code, 3)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:  # a full disk, no memory left to report with, a closed stdout
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        status = status or 1
    finally:
        os._exit(status)


def clear(folder: str) -> None:
    """Remove everything below a folder: nothing of one snippet is left for the next."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            clear(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def run(number: int, snippet: tuple, limits: tuple, seccomp: bytes) -> tuple:
    """Run one snippet; returns `(exit code, timed out, truncated, stdout, stderr, value)`."""
    timeout_s, wall_s, memory_mb, output_limit = limits
    pipes = [os.pipe() for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        child(snippet, f"{WORK}/{number}", tuple(end for _, end in pipes), memory_mb, timeout_s, seccomp)
    for _, end in pipes:
        os.close(end)
    readers = [end for end, _ in pipes]
    received = {end: bytearray() for end in readers}
    room = dict(zip(readers, (output_limit, output_limit, VALUE_LIMIT)))
    deadline = time.monotonic() + wall_s
    timed_out = truncated = False
    waiting = select.poll()
    for end in readers:
        waiting.register(end, select.POLLIN)
    alive = set(readers)
    while alive and not (timed_out or truncated):
        left = deadline - time.monotonic()
        for end, _ in waiting.poll(max(0.0, left) * 1000):
            data = os.read(end, 65536)
            if not data:
                waiting.unregister(end)
                alive.discard(end)
            received[end] += data
            truncated |= len(received[end]) > room[end]
        timed_out = bool(alive) and not truncated and time.monotonic() >= deadline
    # its pipes may be closed while it runs on: give it the rest of its time, then end it
    ended = 0
    while not ended and not (timed_out or truncated):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            timed_out = time.monotonic() >= deadline
            time.sleep(0.0002)
    if not ended:
        os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
    for end in readers:
        os.close(end)
    clear(WORK)
    exit_code = os.waitstatus_to_exitcode(status)
    timed_out |= exit_code in (-signal.SIGPROF, -signal.SIGXCPU) or (exit_code == -9 and not truncated)
    out, err, value = (bytes(received[end][: room[end]]) for end in readers)
    return exit_code, timed_out, truncated, out, err, value


def main() -> None:
    seccomp, limits, snippets = marshal.load(sys.stdin.buffer)
    for number, snippet in enumerate(snippets):
        exit_code, timed_out, truncated, out, err, value = run(number, snippet, limits, seccomp)
        head = f"{exit_code} {int(timed_out)} {int(truncated)} {len(out)} {len(err)} {len(value)}\n"
        sys.stdout.buffer.write(head.encode() + out + err + value)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
