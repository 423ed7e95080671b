import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.ranklog import BURST, ENDING, LONGEST, RATE, RankLogs, own_file

RANK = """
import os, sys, time
from pathlib import Path
from pretrain.ranklog import write_to_own_file
write_to_own_file(Path(sys.argv[1]), int(sys.argv[2]))
print("from Python")
os.write(2, b"from native code")
print("ready", file=sys.__stdout__, flush=True)
time.sleep(600)
"""


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def told() -> list[str]:
    return []


def write(path: Path, text: str) -> None:
    with open(path, "a") as handle:
        handle.write(text)


def test_lines_come_whole_with_who_said_them(tmp_path: Path, told: list[str]) -> None:
    write(tmp_path / "worker.log", "of an attempt before\n")
    clock = Clock()
    logs = RankLogs(tmp_path, True, told.append, clock)
    write(tmp_path / "worker.log", "starting\n")
    write(own_file(tmp_path, 3), "10%\r50%\r100%\n\nhalf a li")
    clock.seconds += 1
    logs.poll()
    assert told == ["[rank 3] 100%", "[torchrun] starting"]
    write(own_file(tmp_path, 3), "ne, " + "x" * LONGEST)
    clock.seconds += 1
    logs.poll()
    assert len(told) == 2, "it has no end yet"
    logs.close()
    assert told[2].startswith("[rank 3] half a line, xxx")
    assert told[2].endswith("x…")


def test_a_flood_is_held_back_and_its_end_is_not_lost(tmp_path: Path, told: list[str]) -> None:
    clock = Clock()
    logs = RankLogs(tmp_path, False, told.append, clock)
    for second in range(20):
        write(tmp_path / "worker.log", "".join(f"line {second * 1000 + at}\n" for at in range(1000)))
        clock.seconds += 1
        logs.poll()
    assert BURST <= len(told) <= BURST + RATE * 20 + 20
    assert told[:BURST] == [f"[rank 0] line {at}" for at in range(BURST)]
    logs.close()
    assert told[-ENDING:] == [f"[rank 0] line {at}" for at in range(20_000 - ENDING, 20_000)]
    assert f"lines are in {tmp_path}/worker*.log only" in told[-ENDING - 1]


def test_quiet_ranks_are_heard_again_after_a_flood(tmp_path: Path, told: list[str]) -> None:
    clock = Clock()
    logs = RankLogs(tmp_path, False, told.append, clock)
    write(tmp_path / "worker.log", "flood\n" * 1000)
    for _ in range(20):
        clock.seconds += 1
        logs.poll()
    write(tmp_path / "worker.log", "a word\n")
    clock.seconds += 1
    logs.poll()
    assert told[-1] == "[rank 0] a word"


def test_what_killed_ranks_printed_is_there(tmp_path: Path, told: list[str]) -> None:
    """Python's buffers, native writes without a newline, SIGKILL: nothing is between a rank and its file."""
    logs = RankLogs(tmp_path, True, told.append)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-u", "-c", RANK, str(tmp_path), str(rank)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for rank in range(2)
    ]
    try:
        files = [own_file(tmp_path, rank) for rank in range(2)]
        while not all(file.exists() and "ready" in file.read_text() for file in files):
            assert all(rank.poll() is None for rank in ranks)
            time.sleep(0.05)
    finally:
        for rank in ranks:
            os.kill(rank.pid, signal.SIGKILL)
            rank.wait()
    logs.close()
    assert told == [
        "[rank 0] from Python",
        "[rank 0] from native codeready",
        "[rank 1] from Python",
        "[rank 1] from native codeready",
    ]
