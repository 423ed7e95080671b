"""A stage that is killed anywhere and run again ends like one that never was: what receipts are for."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.config import ModelConfig, PretrainConfig, TrainingConfig
from pretrain.stage import PretrainStage
from stemma.core.artifact import Artifact
from stemma.core.errors import Preempted
from stemma.core.files import read_jsonl
from tests.programs import (
    PATIENCE,
    Program,
    finish,
    kill_when,
    receipts,
    start_stage,
    still_running,
    wait_until,
)

STEPS = 30
EVERY = 7
BATCH = 32
SAME = ("receipts.jsonl", "ledger.json", "evaluation.json", "hf/model.safetensors", "hf/config.json")

Starter = Callable[..., Program]


@pytest.fixture(scope="module")
def begin(
    inputs: dict[str, Artifact],
    make_plan: Callable[..., Artifact],
    make_training: Callable[..., TrainingConfig],
    tiny_model: ModelConfig,
) -> Starter:
    """``begin(store, ranks)``: the stage as a program in its own session."""
    training = make_training(global_batch_size=BATCH, checkpoint_every=EVERY)
    config = PretrainConfig(model=tiny_model, training=training)
    given = {**inputs, "plan": make_plan(STEPS, batch=BATCH)}
    return lambda store, ranks=1: start_stage(store, PretrainStage, "stem", config, given, ranks)


@pytest.fixture
def start(begin: Starter, tmp_path: Path) -> Starter:
    """The same with the name of a store in the test's own folder."""
    return lambda store, ranks=1: begin(tmp_path / store, ranks)


@pytest.fixture(scope="module")
def straight(begin: Starter, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What a run that nobody disturbs ends with."""
    return finish(begin(tmp_path_factory.mktemp("straight")))[1]


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
        wait_until(process, lambda target=target: receipts(tmp_path / "stopped") >= target)
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
