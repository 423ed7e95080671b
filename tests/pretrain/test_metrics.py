"""Figures of a step: bits per byte, norms by group of layers, and where they are shown."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.curriculum.plan import Plan
from data_pipeline.tokens.shards import open_shards
from pretrain.batch import StepBatch
from pretrain.config import ModelConfig
from pretrain.launch import Job
from pretrain.loop import Stopped
from pretrain.metrics import losses
from pretrain.norms import GroupNorms, group_of, groups
from pretrain.sinks import open_sinks
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from stemma.core.files import read_jsonl
from tests.pretrain.conftest import LOOP_STEPS
from tests.pretrain.helpers import REFERENCE, TINY, UNTIED, batch_of, build

END = 256


def lines(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / "artifact" / "metrics.jsonl"))


def test_losses_are_per_token_and_bits_per_byte_of_text() -> None:
    counts = {"a": (1, 10, 10), "b": (2, 20, 20), "c": (1, 5, 0)}
    batch = StepBatch([], counts, "", denominator=30.0)
    sums = {"loss/a": 20.0, "loss/b": 50.0, "loss/c": 0.0, "bytes/a": 40.0, "bytes/b": 50.0, "bytes/c": 0.0}
    means = {name: value / 30.0 for name, value in (sums | {"moved": 3.0}).items()}
    found = losses(batch, means, {"a": "web", "b": "code", "c": "code"})
    assert found == pytest.approx(
        {
            "loss/a": 2.0,
            "loss/b": 2.5,
            "loss/web": 2.0,
            "loss/code": 2.5,
            "moved": 0.1,
            "bits_per_byte/web": 20 / math.log(2) / 40,
            "bits_per_byte/code": 1 / math.log(2),
            "bits_per_byte": 70 / math.log(2) / 90,
        }
    )


def test_groups_are_quarters_of_the_depth() -> None:
    found = groups(REFERENCE)
    assert found[:3] == ["embedding", "layers_0-7/attention", "layers_0-7/mlp"]
    assert found[-2:] == ["layers_24-31/mlp", "norms"]
    assert groups(UNTIED)[-1] == "output"
    assert group_of("decoder.layers.1.self_attention.q_layernorm.weight", TINY) == "norms"
    six = REFERENCE.model_copy(update={"num_layers": 6})
    assert [name for name in groups(six) if name.endswith("mlp")] == [
        "layers_0-1/mlp",
        "layers_2/mlp",
        "layers_3-4/mlp",
        "layers_5/mlp",
    ]


@pytest.mark.parametrize("model", [TINY, UNTIED])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_norms_of_groups_are_those_of_their_parameters(model: ModelConfig, precision: str) -> None:
    engine = build(model, training={"precision": precision})
    measured: dict[str, float] = {}
    norms = GroupNorms(engine)

    def accept(loss: float, grad_norm: float) -> bool:
        measured.update(norms.measure())
        return False

    def loss(output: torch.Tensor, micro: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (engine.token_loss(output, micro.labels) * micro.loss_mask).sum(), {}

    result = engine.train_step(batch_of(engine, 0), loss, 1e-2, accept)
    expected: dict[str, float] = dict.fromkeys(measured, 0.0)
    for name, parameter in engine.module.named_parameters():
        kind = "norms" if "norm" in name else "embedding" if name.startswith("embedding") else "output"
        if kind == "output" and "layers" in name:
            layer = name.split(".")[2]
            kind = f"layers_{layer}/{'attention' if 'self_attention' in name else 'mlp'}"
        expected[f"grad_norm/{kind}"] += float(parameter.main_grad.double().square().sum())
        expected[f"param_norm/{kind}"] += float(parameter.detach().double().square().sum())
    assert measured == pytest.approx({name: math.sqrt(value) for name, value in expected.items()}, rel=1e-2)
    squares = sum(value**2 for name, value in measured.items() if name.startswith("grad_norm/"))
    assert math.sqrt(squares) == pytest.approx(result.grad_norm, rel=1e-5)
    engine.close()


def test_a_step_tells_speed_memory_and_bits_per_byte_of_its_own_text(
    run: Callable[..., dict[str, Any]],
    make_plan: Callable[..., Artifact],
    inputs: dict[str, Artifact],
    tmp_path: Path,
) -> None:
    run(tmp_path, metrics={"norms_every": 5})
    plan, shards = Plan.load(make_plan(LOOP_STEPS).path), open_shards([inputs["tokens"].path], "train")
    found = lines(tmp_path)
    assert [line["step"] for line in found if "grad_norm/norms" in line] == [0, 5]
    for line in found:
        assert line["flops_per_second"] > 0
        assert "mfu" not in line  # a CPU's peak is not known
        assert line["peak_memory_gib"] > 0.1
        assert 0 <= line["data_seconds"] <= line["seconds"]
        step = plan.batch(line["step"])
        labels = np.concatenate(
            [
                shards[at.source].read(at.start_token + 1, at.sequence_length)
                for at in plan.locate_range(step.first_sample, step.samples)
            ]
        )
        size = int((labels != END).sum())  # a token is a byte here, but for the ends of documents
        assert line["bits_per_byte"] == pytest.approx(
            line["loss"] * len(labels) / math.log(2) / size, rel=1e-5
        )


def test_tensorboard_reads_every_step_once_also_of_a_stage_that_was_stopped(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for stop_after in (5, 1):
        with pytest.raises(Stopped):
            run(tmp_path, stop_after=stop_after)
    folder = tmp_path / "artifact" / "tensorboard"
    (folder / "events.out.tfevents.0000000005").rename(
        folder / "events.out.tfevents.0000000007"
    )  # lost steps
    run(tmp_path)
    assert sorted(path.suffix for path in folder.iterdir()) == [".0000000000", ".0000000006"]
    reader = event_accumulator.EventAccumulator(str(folder))
    reader.Reload()
    found = {line["step"]: line for line in lines(tmp_path)}
    for tag in ("loss", "loss/web", "bits_per_byte", "tokens_per_second"):
        shown = reader.Scalars(tag)
        steps = [event.step for event in shown]
        assert steps == sorted(set(steps))
        assert {step for step in found if step != 5} <= set(steps) <= set(found)
        for event in shown:
            assert event.value == pytest.approx(found[event.step][tag], rel=1e-6)


def test_figures_of_before_are_shown_too_where_nothing_showed_them(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(Stopped):
        run(tmp_path, stop_after=5, metrics={"tensorboard": False})
    assert not (tmp_path / "artifact" / "tensorboard").exists()
    run(tmp_path)
    reader = event_accumulator.EventAccumulator(str(tmp_path / "artifact" / "tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == list(range(8))


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_that_is_asked_for_has_to_be_installed(
    make_job: Callable[..., Job], tmp_path: Path, package: str
) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(StemmaError, match=rf"training\.metrics\.{package} .*{package} is not installed"):
        open_sinks(make_job(tmp_path, metrics={package: "demo"}), 0)
