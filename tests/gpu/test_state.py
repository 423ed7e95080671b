"""Checkpoints between devices, exact resume, exports, and what ranks share."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu import process, shapes
from tests.gpu.conftest import environment, python
from tests.pretrain.helpers import build, figures

PROCESS = "tests.gpu.process"
DEVICES = {"cpu": {"CUDA_VISIBLE_DEVICES": ""}, "cuda": {}}


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_changes_device(tmp_path: Path, first: str, second: str) -> None:
    """The same forward pass, and the moments and all else it needs to train on alike."""
    for command, where in (("save", first), ("load", second), ("load", first)):
        subprocess.run(
            python(PROCESS, command, tmp_path), env=environment(**DEVICES[where]), check=True, timeout=280
        )
        if command == "load":
            (tmp_path / "loaded.json").rename(tmp_path / f"{where}.json")
    device, expected = json.loads((tmp_path / "saved.json").read_text())
    moved, found, losses = json.loads((tmp_path / f"{second}.json").read_text())
    _, _, stayed = json.loads((tmp_path / f"{first}.json").read_text())
    assert (device.split(":")[0], moved.split(":")[0]) == (first, second)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(stayed), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_any_step_it_ends_the_same(tmp_path: Path, precision: str) -> None:
    """Bit for bit, on one GPU with ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` and deterministic algorithms."""

    def run(folder: Path, last: int) -> int:
        folder.mkdir(exist_ok=True)
        command = python(PROCESS, "resume", folder, precision, last)
        return subprocess.run(command, env=environment(), timeout=280, stderr=subprocess.DEVNULL).returncode

    assert run(tmp_path / "undisturbed", -1) == 0
    for last in (1, 4, 5):  # before the first checkpoint, between two, and before one is written
        assert run(tmp_path / "killed", last) != 0
    assert run(tmp_path / "killed", -1) == 0
    undisturbed, killed = (
        (tmp_path / name / "receipts.txt").read_text() for name in ("undisturbed", "killed")
    )
    assert len(undisturbed.splitlines()) == process.STEPS
    assert killed == undisturbed


def test_an_export_says_what_the_engine_says(engine_of: Any, tmp_path: Path) -> None:
    """On both devices; GGUF files are made of such folders, on the CPU."""
    from transformers import AutoModelForCausalLM

    from pretrain.verify import verify
    from tests.golden import nano

    engine = engine_of()
    shapes.train(engine, 0, 3)
    expected = torch.tensor(shapes.logprobs(engine))[:, :-1]
    engine.write_hf(tmp_path / "hf")
    engine.save(tmp_path / "checkpoint", {})
    tokens = torch.cat([micro.tokens for micro in nano.batch(10_000, shapes.LENGTH, documents=False).micro])
    for where in ("cpu", "cuda"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).to(where)
        with torch.no_grad():
            logs = model(tokens.to(where)).logits.log_softmax(-1)[:, :-1].cpu()
        found = logs.gather(-1, tokens[:, 1:, None]).squeeze(-1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert verify(tmp_path / "checkpoint", tmp_path / "hf").first is None


SPLITS: dict[str, dict[str, Any]] = {
    "TP": {"tensor_parallel": 2},
    "TP, sequence parallel": {"tensor_parallel": 2, "sequence_parallel": True},
    "PP": {"pipeline_parallel": 2},
    "CP": {"context_parallel": 2},
    "DP": {"data_parallel": 2},
}


@pytest.fixture(scope="module")
def shared(two_gpus: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    calls = [("split", ranks, name == "DP", {}) for name, ranks in SPLITS.items()]
    calls += [("split", ranks, name == "DP", {"precision": "bf16"}) for name, ranks in SPLITS.items()]
    (folder / "calls.json").write_text(json.dumps(calls))
    torchrun = python("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", PROCESS)
    subprocess.run([*torchrun, "ranks", str(folder)], env=environment(), check=True, timeout=600)
    results = json.loads((folder / "results.json").read_text())
    return {
        "fp32": dict(zip(SPLITS, results[: len(SPLITS)], strict=True)),
        "bf16": dict(zip(SPLITS, results[len(SPLITS) :], strict=True)),
    }


@pytest.mark.timeout(700)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("split", SPLITS)
def test_two_gpus_train_what_one_does(shared: dict[str, Any], split: str, precision: str) -> None:
    engine = build(training={"precision": precision})
    alone = figures(engine)
    engine.close()
    digit = 1e-3 if precision == "fp32" else 0.05
    found = shared[precision][split]
    assert found["losses"] == pytest.approx(alone["losses"], rel=digit)
    for name in ("evaluation", "mixed", "packed"):
        assert found[name] == pytest.approx(alone[name], rel=digit)
    if precision == "fp32":
        torch.testing.assert_close(
            torch.tensor(found["logprobs"]), torch.tensor(alone["logprobs"]), atol=5e-3, rtol=5e-3
        )
