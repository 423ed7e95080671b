"""The supervisor over programs of a few lines that beat like ranks; ``test_launch.py`` has the real ones."""

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pretrain import supervisor
from pretrain.heartbeat import Heartbeat, read_beats
from pretrain.supervisor import Supervisor, newest_step
from stemma.core.errors import DamagedError, StageFailed
from stemma.core.files import write_json

BEGIN = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
from pretrain.heartbeat import DONE, TRAINING, Heartbeat
from stemma.core.files import write_json

folder = Path(sys.argv[1])
attempt = len(list(folder.glob("attempt-*")))
(folder / f"attempt-{attempt}").touch()

def checkpoint(step):
    (folder / "checkpoint" / f"step-{step:08d}").mkdir(parents=True)

def fail(kinds, message, step, rank=0):
    record = {"error": kinds[0], "kinds": kinds, "message": message, "traceback": "Traceback: of " + message}
    write_json(folder / f"failure.{rank}.json", record | {"rank": rank, "step": step, "time": time.time()})
    os._exit(1)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def finish():
    (folder / "result").touch()
"""
Runner = Callable[..., Supervisor]


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """``watch(program, ...)``: supervise a program that begins with ``BEGIN``."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "LINGER_SECONDS", 0.3)

    def run(program: str, hang_seconds: float = 60, restarts: int = 2, **changes: object) -> Supervisor:
        (tmp_path / "program.py").write_text(BEGIN + textwrap.dedent(program))
        found = Supervisor(
            "stem",
            [sys.executable, str(tmp_path / "program.py"), str(tmp_path)],
            os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            tmp_path,
            tmp_path / "log",
            hang_seconds,
            restarts,
            threading.Event(),
            **changes,  # type: ignore[arg-type]
        )
        found.run((tmp_path / "result").exists)
        return found

    return run


def attempts(folder: Path) -> int:
    return len(list(folder.glob("attempt-*")))


def test_what_died_without_a_word_goes_on_from_its_checkpoint(watch: Runner, tmp_path: Path) -> None:
    said: list[str] = []
    found = watch(
        """
        heart = Heartbeat(folder, 0)
        heart.beat(5 * attempt + 5)
        if attempt < 4:
            checkpoint(5 * attempt + 5)
            die()
        finish()
        """,
        restarts=1,  # each time it reached a new checkpoint, so that one restart is enough for all
        say=said.append,
    )
    assert (attempts(tmp_path), found.restarted) == (5, 4)
    assert len(said) == 4
    assert "died without a word" in said[0]
    assert "after step 5" in said[0]
    assert "goes on from the checkpoint of step 20" in said[3]


def test_without_progress_it_is_given_up(watch: Runner, tmp_path: Path) -> None:
    with pytest.raises(StageFailed) as caught:
        watch(
            """
            Heartbeat(folder, 0).beat(attempt)
            print("the last words of attempt", attempt, flush=True)
            die()
            """
        )
    assert attempts(tmp_path) == 3
    message = str(caught.value)
    assert "after step 2, died without a word" in message
    assert "started 3 times and reached no new checkpoint" in message
    assert "after step 0, died" in message
    assert "the last words of attempt 2" in message
    assert "the last words of attempt 1" not in message  # only what this attempt printed
    assert str(tmp_path / "log") in message


@pytest.mark.parametrize(
    ("kinds", "message", "tried"),
    [
        (
            "['ZeroDivisionError', 'ArithmeticError', 'Exception']",
            "'1 // 0'",
            1,
        ),  # a bug: it would come again
        ("['RuntimeError', 'Exception']", "'shapes do not fit'", 2),  # once more: it is the same
        ("['RuntimeError', 'Exception']", "f'lost peer at port {attempt}'", 3),  # another one each time
        ("['OutOfMemoryError', 'RuntimeError']", "f'{attempt} GiB'", 3),
    ],
)
def test_how_often_an_exception_is_tried_again(
    watch: Runner, tmp_path: Path, kinds: str, message: str, tried: int
) -> None:
    with pytest.raises(StageFailed, match="rank 0: ") as caught:
        watch(f"Heartbeat(folder, 0)\nfail({kinds}, {message}, 3)")
    assert attempts(tmp_path) == tried
    assert ("failed in the same way" in str(caught.value)) == (tried == 2)
    assert "Traceback: of" in str(caught.value)


def test_an_error_that_explains_itself_is_raised_as_it_is(watch: Runner, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"^all is lost$"):
        watch("fail(['DamagedError', 'StemmaError', 'Exception'], 'all is lost', None)")
    assert attempts(tmp_path) == 1


RANKS = """
if len(sys.argv) == 2:  # what torchrun is: it starts the ranks and waits for them
    command = [sys.executable, __file__, sys.argv[1]]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    sys.exit(max(rank.wait() for rank in ranks))
rank = int(sys.argv[2])
heart = Heartbeat(folder, rank)
heart.beat(7, TRAINING)
while len(list(folder.glob("heartbeat.*"))) < 2:
    time.sleep(0.01)

def waits_for_the_other():
    time.sleep(120)
"""


def test_a_hang_shows_where_every_rank_is_and_is_ended(watch: Runner, tmp_path: Path) -> None:
    with pytest.raises(StageFailed) as caught:
        watch(
            RANKS
            + """
def spins_for_ever():
    while True:
        pass

waits_for_the_other() if rank else spins_for_ever()
""",
            hang_seconds=1.0,
            restarts=0,
        )
    message = str(caught.value)
    assert "no rank did anything for " in message
    for rank, where in enumerate(("spins_for_ever", "waits_for_the_other")):
        assert f"rank {rank} (process {read_beats(tmp_path)[rank].pid}), training after step 7" in message
        assert where in message
        assert where in (tmp_path / "log").read_text()
    assert not any(beat.process() for beat in read_beats(tmp_path).values())


def test_beating_slowly_is_no_hang(watch: Runner, tmp_path: Path) -> None:
    watch(
        """
        heart = Heartbeat(folder, 0)
        time.sleep(2.0)  # before the first micro batch there is more time
        heart.beat(doing=TRAINING)
        for _ in range(6):
            time.sleep(0.3)
            heart.beat()
        finish()
        """,
        hang_seconds=1.5,
        restarts=0,
    )


def test_ranks_that_wait_for_a_dead_one_are_not_waited_for(watch: Runner, tmp_path: Path) -> None:
    """With NCCL they would wait for minutes; and the one that died is named, not those that were killed."""
    with pytest.raises(StageFailed, match=r"rank 1 \(process \d+\), training after step 7, died") as caught:
        watch(RANKS + "die() if rank else waits_for_the_other()", restarts=0)
    assert "rank 0" not in str(caught.value)
    assert not any(beat.process() for beat in read_beats(tmp_path).values())


def test_a_rank_that_finished_is_not_missed(watch: Runner, tmp_path: Path) -> None:
    """Rank 0 writes the model while the others have left."""
    watch(
        RANKS
        + """
if rank:
    heart.beat(doing=DONE)
else:
    time.sleep(1.5)
    finish()
""",
        restarts=0,
    )
    assert (tmp_path / "result").exists()


def test_the_rank_that_failed_is_blamed_not_the_one_that_lost_it(watch: Runner, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="rank 1: KeyError: 'weights'"):
        watch(
            RANKS
            + """
if rank:
    fail(["KeyError", "LookupError"], "'weights'", 7, 1)
time.sleep(0.1)
fail(["RuntimeError"], "Connection closed by peer", 7, 0)
"""
        )


def test_an_error_over_a_dead_rank_is_not_the_cause(watch: Runner, tmp_path: Path) -> None:
    """A checkpoint that could not be written because a rank was killed is written in the next attempt."""
    found = watch(
        RANKS
        + """
if attempt >= 3:  # of each start, the first process and the ranks count
    finish()
elif rank:
    die()
else:
    time.sleep(0.1)
    fail(["StemmaError"], "the checkpoint could not be written: Connection closed by peer", 7, 0)
"""
    )
    assert found.restarted == 1


def test_asked_to_stop_between_two_attempts_it_stops(
    watch: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 60)

    def stop(text: str) -> None:
        running.stopping.set()

    running = Supervisor(
        "stem",
        [sys.executable, "-c", "1/0"],
        os.environ,
        tmp_path,
        tmp_path / "log",
        60,
        2,
        threading.Event(),
        stop,
    )
    started = time.monotonic()
    running.run(lambda: False)
    assert time.monotonic() - started < 30
    assert running.restarted == 0


def once(exception: type[BaseException], ready: Path) -> Callable[[], None]:
    """What raises once, as soon as a file is there."""

    def idle() -> None:
        if ready.exists():
            ready.unlink()
            raise exception

    return idle


ENDS_WELL = """
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), finish(), os._exit(0)))
Heartbeat(folder, 0).beat(3, TRAINING)
(folder / "ready").touch()
time.sleep(120)
"""


def test_ctrl_c_ends_the_program_in_good_order(watch: Runner, tmp_path: Path) -> None:
    found = watch(ENDS_WELL, idle=once(KeyboardInterrupt, tmp_path / "ready"))
    assert (attempts(tmp_path), found.restarted, found.stopping.is_set()) == (1, 0, True)
    assert (tmp_path / "result").exists()


def test_an_error_of_ours_ends_the_program_in_good_order_too(watch: Runner, tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError):
        watch(ENDS_WELL, idle=once(BrokenPipeError, tmp_path / "ready"))
    assert (tmp_path / "result").exists()


@pytest.mark.parametrize(
    "program",
    [
        "Heartbeat(folder, 0).beat(doing='loading')",  # nothing was done yet that could be lost
        "Heartbeat(folder, 0).beat(7, TRAINING)\nif os.fork() == 0:\n    Heartbeat(folder, 1); die()",
    ],
    ids=["not begun", "a rank is gone"],
)
def test_nobody_waits_for_what_cannot_end_in_good_order(watch: Runner, tmp_path: Path, program: str) -> None:
    started = time.monotonic()
    watch(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + program
        + "\n(folder / 'ready').touch()\ntime.sleep(120)",
        idle=once(KeyboardInterrupt, tmp_path / "ready"),
    )
    assert time.monotonic() - started < 60


def test_what_goes_wrong_while_it_is_stopped_is_told(watch: Runner, tmp_path: Path) -> None:
    """Otherwise it would look as if the last step had been saved."""
    program = """
    def stop(*_):
        fail({kinds}, "no space left on device", 3)

    signal.signal(signal.SIGTERM, stop)
    Heartbeat(folder, 0).beat(3, TRAINING)
    (folder / "ready").touch()
    time.sleep(120)
    """
    said: list[str] = []
    interrupt = once(KeyboardInterrupt, tmp_path / "ready")
    watch(program.replace("{kinds}", "['OSError']"), idle=interrupt, say=said.append)
    assert "rank 0: OSError: no space left on device, while stem was being stopped" in said[0]
    with pytest.raises(DamagedError, match="no space left"):
        watch(program.replace("{kinds}", "['DamagedError', 'StemmaError']"), idle=interrupt)


def test_a_beat_tells_a_process_from_a_later_one_of_the_same_number(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    heart = Heartbeat(tmp_path, 3)
    heart.beat(step=4, doing="measuring")
    heart.beat()
    beat = read_beats(tmp_path)[3]
    assert (beat.pid, beat.step, beat.doing, beat.count) == (os.getpid(), 4, "measuring", 3)
    assert beat.process() == psutil.Process()
    write_json(tmp_path / "heartbeat.3", vars(beat) | {"started": beat.started - 5})
    assert read_beats(tmp_path)[3].process() is None
    (tmp_path / "heartbeat.3").write_text('{"rank": 3, "no')
    assert read_beats(tmp_path) == {}
    assert signal.getsignal(signal.SIGUSR1) == before


def test_setting_the_clock_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's boot time follows the time of day, and process start times are told relative to it."""
    Heartbeat(tmp_path, 0)
    booted = psutil.boot_time()
    for module in (psutil, psutil._psplatform):
        monkeypatch.setattr(module, "boot_time", lambda: booted + 3600)
    assert abs(psutil.Process().create_time() - time.time() - 3600) < 3000  # it did move
    assert read_beats(tmp_path)[0].process() is not None


def test_the_newest_step_is_that_of_the_last_whole_checkpoint(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == -1
    for name in ("step-00000004", "step-00000012", ".step-00000016.tmp"):
        (tmp_path / "checkpoint" / name).mkdir(parents=True)
    assert newest_step(tmp_path) == 12
