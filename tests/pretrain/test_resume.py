"""A stage that is killed anywhere and run again ends like one that never was: what receipts are for."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stemma.core.artifact import Artifact, open_artifact
from stemma.core.errors import Preempted
from stemma.core.files import read_jsonl

STEPS = 30
EVERY = 7
PATIENCE = 240  # seconds; a run takes five on an idle machine
SAME = ("receipts.jsonl", "ledger.json", "evaluation.json", "hf/model.safetensors", "hf/config.json")

Starter = Callable[..., subprocess.Popen[str]]


SETTINGS = {"global_batch_size": 32, "checkpoint_every": EVERY}


@pytest.fixture
def start(make_run: Callable[..., list[str]], tmp_path: Path) -> Starter:
    """``start(store, ranks)``: the stage as a program in its own session."""

    def begin(store: str, ranks: int = 1) -> "subprocess.Popen[str]":
        command = make_run(tmp_path / store, STEPS, ranks, **SETTINGS)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    return begin


@pytest.fixture(scope="module")
def straight(make_run: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What a run that nobody disturbs ends with."""
    command = make_run(tmp_path_factory.mktemp("straight"), STEPS, 1, **SETTINGS)
    return finish(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))[1]


def finish(process: "subprocess.Popen[str]") -> tuple[list[str], Artifact]:
    """What a run said, and the artifact it ended with."""
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    *said, path = output.splitlines()
    return said, open_artifact(Path(path))


def receipts(store: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in store.glob("artifacts/stem-*/receipts.jsonl"))


def kill_when(process: "subprocess.Popen[str]", condition: Callable[[], object]) -> None:
    """SIGKILL the program's process group as soon as the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def still_running(store: Path) -> list[str]:
    """Command lines of living processes that work on a store."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(store) in text and int(path.parent.name) != os.getpid():
            found.append(text)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_anywhere_it_ends_the_same(start: Starter, straight: Artifact, tmp_path: Path) -> None:
    store = tmp_path / "killed"
    rng = random.Random(20251224)
    unfinished = lambda: list(store.glob("artifacts/stem-*/.scratch/checkpoint/.step-*.tmp"))  # noqa: E731
    done = lambda: list(store.glob("artifacts/stem-*/hf/config.json"))  # noqa: E731

    targets = [rng.randint(1, EVERY - 1), rng.randint(EVERY + 1, STEPS - 2)]

    process = start("killed")
    kill_when(process, lambda: receipts(store) >= targets[0])  # before any checkpoint
    process = start("killed")
    kill_when(process, unfinished)  # the first checkpoint is half written
    process = start("killed")
    kill_when(process, lambda: receipts(store) >= targets[1])
    process = start("killed")
    kill_when(process, done)  # trained, but not sealed
    time.sleep(0.2)
    assert still_running(store) == []
    lines, artifact = finish(start("killed"))

    for name in SAME:
        assert artifact.file(name).read_bytes() == straight.file(name).read_bytes(), name
    assert len(list(read_jsonl(artifact.file("metrics.jsonl")))) == STEPS
    assert artifact.fingerprint == straight.fingerprint
    assert any("continuing stem from step" in line for line in lines)
    figures = ("loss_first", "loss_last", "bits_per_byte", "tokens", "steps")
    assert [artifact.summary[name] for name in figures] == [straight.summary[name] for name in figures]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on_from_there(start: Starter, tmp_path: Path) -> None:
    reached = 0
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, then a scheduler
        process = start("stopped")
        target = reached + 2
        while receipts(tmp_path / "stopped") < target:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == Preempted.exit_code, output
        if reached:
            assert f"continuing stem from step {reached} (checkpoint/step-{reached:08d})" in output
        (reached,) = [int(line.split()[-1]) for line in output.splitlines() if "checkpoint at step" in line]
        assert target <= reached < STEPS
        assert still_running(tmp_path / "stopped") == []
    _, artifact = finish(start("stopped"))
    assert artifact.summary["resumed_from"] == reached
    assert [line["step"] for line in read_jsonl(artifact.file("receipts.jsonl"))] == list(range(STEPS))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_data_parallel_ranks_see_the_same_batches(start: Starter, straight: Artifact) -> None:
    one = straight
    _, two = finish(start("two", ranks=2))
    pairs = list(zip(read_jsonl(one.file("receipts.jsonl")), read_jsonl(two.file("receipts.jsonl"))))
    assert len(pairs) == STEPS
    for mine, theirs in pairs:
        assert mine["batch_sha256"] == theirs["batch_sha256"]
        assert float.fromhex(mine["loss"]) == pytest.approx(float.fromhex(theirs["loss"]), rel=1e-3)
    assert one.file("ledger.json").read_bytes() == two.file("ledger.json").read_bytes()
    for domain, figure in one.summary["bits_per_byte"]["after"].items():
        assert figure == pytest.approx(two.summary["bits_per_byte"]["after"][domain], rel=1e-3)
