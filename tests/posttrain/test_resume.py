"""SFT and RL stages that are killed and run again end like ones that never were."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.config import RLConfig, SFTConfig
from pretrain.config import ModelConfig
from stemma.core.artifact import Artifact, open_artifact
from stemma.core.config import Config, canonical_json
from stemma.core.files import read_json, read_jsonl

SAME = ("receipts.jsonl", "ledger.json", "hf/model.safetensors", "hf/config.json")
EVERY = 3  # steps between checkpoints, and so in the middle of a batch of rollouts, which lasts two

Starter = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(
    tokenizer_artifact: Artifact,
    init: Artifact,
    trajectories: Artifact,
    model_config: ModelConfig,
    sft_config: Callable[..., SFTConfig],
    rl_config: Callable[..., RLConfig],
    tmp_path: Path,
) -> Starter:
    """``start(kind, store, ranks)``: the stage as a program in its own session."""

    def begin(kind: str, store: str, ranks: int = 1) -> "subprocess.Popen[str]":
        section: Config = sft_config() if kind == "sft" else rl_config()
        path = tmp_path / f"{kind}.json"
        path.write_text(canonical_json({"model": model_config.model_dump(), kind: section.model_dump()}))
        folders = [tmp_path / store, path, tokenizer_artifact.path, init.path, trajectories.path]
        program = Path(__file__).with_name("run_stage.py")
        command = [sys.executable, str(program), kind, *map(str, folders), str(ranks)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )

    return begin


def finish(process: "subprocess.Popen[str]") -> Artifact:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return open_artifact(Path(output.splitlines()[-1]))


def kill_after(process: "subprocess.Popen[str]", store: Path, steps: int) -> None:
    """SIGKILL the program's process group once ``steps`` receipts are written."""
    deadline = time.monotonic() + 200
    while sum(path.read_bytes().count(b"\n") for path in store.glob("artifacts/*/receipts.jsonl")) < steps:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_killed_between_checkpoints_it_ends_the_same(start: Starter, kind: str, tmp_path: Path) -> None:
    straight = finish(start(kind, "straight"))
    kill_after(start(kind, "killed"), tmp_path / "killed", EVERY + 2)
    killed = finish(start(kind, "killed"))
    assert killed.fingerprint == straight.fingerprint
    assert killed.summary["resumed_from"] == EVERY
    assert straight.summary["resumed_from"] is None
    for name in (*SAME, "rollouts.jsonl" if kind == "rl" else "conversations.json"):
        assert killed.file(name).read_bytes() == straight.file(name).read_bytes(), name
    steps = [line["step"] for line in read_jsonl(killed.file("receipts.jsonl"))]
    assert steps == list(range(straight.summary["steps"]))
    ledger = read_json(killed.file("ledger.json"))
    assert ledger["planned"] == ledger["realized"]
    theta = read_json(killed.file("hf/config.json"))["rope_parameters"]["rope_theta"]
    assert (
        theta == read_json(Path(straight.path / "hf/config.json"))["rope_parameters"]["rope_theta"] == 20000.0
    )


@pytest.mark.slow
def test_two_data_parallel_ranks_read_the_same_batches_and_play_the_same_episodes(
    start: Starter, tmp_path: Path
) -> None:
    one = list(read_jsonl(finish(start("rl", "one")).file("receipts.jsonl")))
    two = list(read_jsonl(finish(start("rl", "two", 2)).file("receipts.jsonl")))
    assert len(one) == len(two)
    assert one[0]["batch_sha256"] == two[0]["batch_sha256"]
    assert float.fromhex(one[0]["loss"]) == pytest.approx(float.fromhex(two[0]["loss"]), abs=1e-5)
    assert float.fromhex(one[0]["grad_norm"]) == pytest.approx(float.fromhex(two[0]["grad_norm"]), rel=1e-3)
