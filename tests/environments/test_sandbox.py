"""Attacks on the sandboxes, and what honest code needs of them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import environments.sandbox as sandbox_module
from environments.sandbox import Limits, Sandbox, SandboxUnavailable, Snippet, open_sandbox, sandbox_report
from environments.sandbox_bwrap import BwrapSandbox, base_python, parse_replies, python_mounts
from environments.sandbox_seccomp import build_filter, supported

REPOSITORY = Path(__file__).resolve().parents[2]


def test_prints_values_and_exit_codes(sandbox: Sandbox) -> None:
    result = sandbox.run_python("x = 20\nprint(x + 1)\nx * 2")
    assert (result.stdout, result.value, result.exit_code, result.ok) == ("21\n", "40", 0, True)


def test_an_exception_is_reported_with_its_line(sandbox: Sandbox) -> None:
    result = sandbox.run_python("a = 1\nb = a / 0\n")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert result.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "driver" not in result.stderr  # nothing of ours shows


def test_a_syntax_error_is_reported(sandbox: Sandbox) -> None:
    result = sandbox.run_python("print((1)")
    assert result.exit_code == 1
    assert "SyntaxError" in result.stderr


def test_files_and_stdin_are_there(sandbox: Sandbox) -> None:
    result = sandbox.run_python(
        "print(open('folder/data.txt').read(), input(), input())",
        "one\ntwo\n",
        {"folder/data.txt": "content"},
    )
    assert result.stdout == "content one two\n", result.stderr


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/etc/passwd", str(REPOSITORY / "pyproject.toml"), "/proc/self/environ"]
)
def test_files_outside_cannot_be_read(sandbox: Sandbox, path: str) -> None:
    result = sandbox.run_python(f"print(open({path!r}).read())")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "No such file" in result.stderr or "Permission denied" in result.stderr


def test_files_outside_cannot_be_written(sandbox: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "written"
    places = ["/usr/written", "/written", "/tmp/written", str(target), sys.base_prefix + "/written"]
    for place in places:
        result = sandbox.run_python(f"open({place!r}, 'w').write('x')")
        assert result.exit_code == 1, place
    assert not target.exists()


def test_the_environment_is_not_visible(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMMA_TEST_SECRET", "hunter2")
    result = sandbox.run_python("import os\nprint(dict(os.environ))")
    assert "hunter2" not in result.stdout + result.stderr


def test_an_endless_loop_is_stopped(bwrap: Sandbox) -> None:
    started = time.monotonic()
    result = bwrap.run_python("while True:\n    pass", timeout_s=0.5)
    assert result.timed_out
    assert not result.ok
    assert time.monotonic() - started < 10


def test_an_endless_loop_is_stopped_in_monty(monty: Sandbox) -> None:
    result = monty.run_python("while True:\n    pass", timeout_s=0.1)
    assert result.timed_out
    assert not result.ok


def test_catching_the_signal_does_not_help(bwrap: Sandbox) -> None:
    code = "from signal import *\nsignal(SIGPROF, SIG_IGN)\nsignal(SIGXCPU, SIG_IGN)\nwhile True: pass"
    assert bwrap.run_python(code, timeout_s=0.5).timed_out


def test_sleeping_for_ever_is_stopped(bwrap: Sandbox) -> None:
    assert bwrap.run_python("import time\ntime.sleep(1000)", timeout_s=0.1).timed_out


def test_a_memory_bomb_is_refused(sandbox: Sandbox) -> None:
    result = sandbox.run_python("x = [0] * 10**9\nprint(len(x))", memory_mb=100)
    assert result.exit_code == 1
    assert "MemoryError" in result.stderr


def test_endless_output_is_cut(bwrap: Sandbox) -> None:
    result = bwrap.run_python("while True:\n    print('a' * 100)", output_limit=1000)
    assert result.truncated
    assert len(result.stdout) == 1000
    assert set(result.stdout) == {"a", "\n"}


def test_endless_output_is_cut_in_monty(monty: Sandbox) -> None:
    result = monty.run_python("while True:\n    print('a' * 100)", output_limit=1000, timeout_s=0.1)
    assert result.truncated
    assert len(result.stdout) <= 1000


def test_a_fork_bomb_cannot_start(sandbox: Sandbox) -> None:
    result = sandbox.run_python("import os\nwhile True:\n    os.fork()", timeout_s=1)
    assert result.exit_code == 1
    assert "not permitted" in result.stderr or "has no attribute 'fork'" in result.stderr


def test_programs_cannot_be_started(sandbox: Sandbox) -> None:
    result = sandbox.run_python(
        "import subprocess\nprint(subprocess.run(['/bin/ls', '/'], capture_output=True))"
    )
    assert result.exit_code == 1
    assert result.stdout == ""


def test_no_network(sandbox: Sandbox) -> None:
    result = sandbox.run_python(
        "import socket\ns = socket.create_connection(('127.0.0.1', 80), 1)\nprint('connected')"
    )
    assert result.exit_code == 1
    assert "connected" not in result.stdout


def test_other_processes_are_out_of_reach(bwrap: Sandbox) -> None:
    attack = """
import os
for pid in [os.getppid(), 1, -1]:
    try:
        os.kill(pid, 9)
        print('killed')
    except OSError:
        print('refused')
"""
    results = bwrap.run_many([Snippet(attack), Snippet("print('alive')")])
    assert results[0].stdout == "refused\n" * 3
    assert results[1].stdout == "alive\n"


def test_limits_cannot_be_raised(bwrap: Sandbox) -> None:
    code = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (100, 100))"
    assert "not allowed" in bwrap.run_python(code).stderr


def test_filling_the_disk_is_refused(bwrap: Sandbox) -> None:
    code = "for n in range(100):\n    open(f'f{n}', 'wb').write(b'x' * (10 << 20))"
    result = bwrap.run_python(code)
    assert "No space left" in result.stderr
    assert (
        bwrap.run_many([Snippet(code), Snippet("open('f', 'w').write('x' * 1000)\nprint('room')")])[1].stdout
        == "room\n"
    )


def test_snippets_of_a_batch_do_not_meet(bwrap: Sandbox) -> None:
    results = bwrap.run_many(
        [
            Snippet("import builtins\nbuiltins.sum = None\nopen('/sandbox/left', 'w')\nopen('here', 'w')"),
            Snippet("import os\nprint(sum([1, 2]), os.listdir('/sandbox'), os.listdir('.'))"),
        ]
    )
    assert results[0].ok, results[0].stderr
    assert results[1].stdout == "3 ['1'] ['main.py']\n"


def test_a_crash_of_the_interpreter_stays_its_own(bwrap: Sandbox) -> None:
    results = bwrap.run_many([Snippet("import ctypes\nctypes.string_at(0)"), Snippet("print(1)")])
    assert results[0].exit_code == -11
    assert results[1].stdout == "1\n"


def test_many_snippets_keep_their_order(sandbox: Sandbox) -> None:
    results = sandbox.run_many([Snippet(f"print({n} * 3)") for n in range(300)])
    assert [result.stdout for result in results] == [f"{n * 3}\n" for n in range(300)]


def test_string_hashes_do_not_vary(bwrap: Sandbox) -> None:
    results = [bwrap.run_python("print(hash('stemma'))").stdout for _ in range(2)]
    assert results[0] == results[1]


def test_threads_work(bwrap: Sandbox) -> None:
    code = "import threading\nt = threading.Thread(target=print, args=('hi',))\nt.start()\nt.join()"
    assert bwrap.run_python(code).stdout == "hi\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_works_without_root(bwrap: Sandbox) -> None:
    if not os.access(base_python(), os.X_OK) or any(
        not part.stat().st_mode & 0o001 for part in Path(base_python()).parents
    ):
        pytest.skip("this Python lies where only root can reach it")
    assert isinstance(bwrap, BwrapSandbox)
    done = subprocess.run(
        [*bwrap.command[:-5], "-c", "print(1)"], user=65534, group=65534, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr


def test_the_mounts_show_the_python_but_not_the_virtual_environment() -> None:
    mounts = python_mounts()
    assert sys.base_prefix in mounts or sys.base_prefix in ("/usr", "/usr/local")
    assert not any(path.startswith(str(REPOSITORY)) for path in mounts)


def test_auto_opens_the_first_that_works() -> None:
    usable = [name for name, works, _ in sandbox_report() if works]
    assert open_sandbox().name == usable[0]


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(SandboxUnavailable, match=r"'docker' is unknown; choose one of: auto, bwrap, monty"):
        open_sandbox("docker")


def test_none_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sandbox_module,
        "sandbox_report",
        lambda: (("bwrap", False, "no namespaces"), ("monty", False, "not installed")),
    )
    with pytest.raises(SandboxUnavailable, match="never run without one") as caught:
        open_sandbox()
    assert "no namespaces" in str(caught.value)
    assert "not installed" in str(caught.value)


def test_a_broken_bubblewrap_is_reported(bwrap: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(bwrap, BwrapSandbox)
    broken = BwrapSandbox()
    broken.command = ["/bin/sh", "-c", "echo namespaces are forbidden >&2; exit 1"]
    with pytest.raises(SandboxUnavailable, match="namespaces are forbidden"):
        broken.run_python("print(1)")


def test_a_snippet_that_ends_the_sandbox_fails_alone(bwrap: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    fragile = BwrapSandbox()
    real = subprocess.Popen.communicate

    def communicate(process: subprocess.Popen[bytes], data: bytes, timeout: float) -> tuple[bytes, bytes]:
        if b"deadly" in data:  # as if that snippet had found a way to kill the driver
            data = data[:20]
        return real(process, data, timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
    results = fragile.run_many([Snippet("print(1)")] * 3 + [Snippet("deadly")] + [Snippet("print(2)")])
    assert [result.exit_code for result in results[3:4]] == [-9]
    assert "the sandbox was ended" in results[3].stderr


def test_torn_replies_are_left_out() -> None:
    whole = b"0 0 0 2 0 0\n1\n"
    assert len(parse_replies(whole + whole)) == 2
    for cut in range(1, len(whole)):
        assert len(parse_replies(whole + whole[:cut])) == 1


def test_the_filter_is_built_for_both_machines() -> None:
    assert supported("x86_64")
    assert supported("aarch64")
    assert not supported("riscv64")
    for machine in ("x86_64", "aarch64"):
        assert len(build_filter(machine)) % 8 == 0


def test_limits_bound_the_clock_as_well() -> None:
    assert Limits(timeout_s=2).wall_s > 2
