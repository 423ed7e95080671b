"""Training on one GPU: the losses of the CPU, every precision, memory and speed."""

import time
from collections.abc import Callable

import pytest
import torch

from pretrain import costs
from pretrain.config import ModelConfig
from pretrain.engine import Engine
from pretrain.metrics import _peak_flops
from pretrain.model import megatron_config
from pretrain.topology import Topology
from stemma.core.errors import StemmaError
from tests.golden import nano
from tests.gpu import shapes

STEPS = 40
RECIPES = ["tensorwise", "delayed", "blockwise", "mxfp8"]
Build = Callable[..., Engine]


def test_fp32_has_the_losses_recorded_on_a_cpu() -> None:
    """Golden losses: two CPUs differ by 4e-6 at most; a GPU sums in other orders still."""
    found = [loss for loss, _ in nano.losses()]
    for machine, lines in nano.recorded()["losses"].items():
        expected = [float.fromhex(line.split()[0]) for line in lines]
        gaps = [abs(mine / theirs - 1) for mine, theirs in zip(found, expected, strict=True)]
        print(f"{machine}: largest gap {max(gaps[:10]):.1e} in 10 steps, {max(gaps):.1e} in {len(gaps)}")
        assert max(gaps[:10]) < 1e-5
        assert max(gaps) < 1e-3


@pytest.fixture(scope="module")
def in_fp32() -> list[float]:
    from stemma.core.stage import Execution

    engine = Engine.build(shapes.WIDE, shapes.training(), Execution(threads=1))
    losses = [loss for loss, _ in shapes.train(engine, 0, STEPS)]
    engine.close()
    assert losses[-1] < losses[0] - 1.0
    return losses


def gap(losses: list[float], expected: list[float]) -> float:
    """Mean relative difference over the second half."""
    pairs = list(zip(losses, expected, strict=True))[STEPS // 2 :]
    return sum(mine / theirs - 1 for mine, theirs in pairs) / len(pairs)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_fp32(engine_of: Build, in_fp32: list[float], precision: str) -> None:
    engine = engine_of(precision=precision, loss_scale={"initial": 1024.0})
    losses = [loss for loss, _ in shapes.train(engine, 0, STEPS)]
    print(f"{precision}: {gap(losses, in_fp32):+.2%} against fp32")
    assert abs(gap(losses, in_fp32)) < 0.01


@pytest.mark.parametrize("recipe", RECIPES)
def test_fp8_stays_near_fp32_and_its_simulation_near_it(
    engine_of: Build, in_fp32: list[float], recipe: str
) -> None:
    fp8 = {"recipe": recipe, "amax_history_len": 16}
    real = shapes.training(precision="fp8", fp8=fp8)
    try:
        megatron_config(shapes.WIDE, "fp8", fp8=real.fp8)
    except StemmaError as refused:
        pytest.skip(str(refused))
    losses = [loss for loss, _ in shapes.train(engine_of(training=real), 0, STEPS)]
    simulated = shapes.training(precision="fp8", fp8=fp8 | {"simulate": True})
    as_if = [loss for loss, _ in shapes.train(engine_of(training=simulated), 0, STEPS)]
    print(
        f"fp8 {recipe}: {gap(losses, in_fp32):+.2%} against fp32, simulated {gap(as_if, in_fp32):+.2%}, "
        f"first step {losses[0]:.5f} and {as_if[0]:.5f}"
    )
    assert losses[0] == pytest.approx(as_if[0], rel=2e-3)
    assert abs(gap(losses, in_fp32)) < 0.03
    assert abs(gap(losses, as_if)) < 0.01


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_what_was_planned_and_the_speed_is_printed(engine_of: Build, recompute: bool) -> None:
    """Measured against ``costs.memory``, which counts tensors and no kernel's scratch memory."""
    length, rows, steps = 2048, 4, 6
    engine = engine_of(shapes.LARGE, precision="bf16", recompute=recompute)
    torch.cuda.reset_peak_memory_stats()
    start = 0.0
    for step in range(steps + 2):
        if step == 2:  # the first allocate moments and choose kernels
            torch.cuda.synchronize()
            start = time.perf_counter()
        one_step(engine, shapes.LARGE, rows, length)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / steps
    planned = costs.memory(shapes.LARGE, Topology(), "bf16", length, rows, recompute)
    peak = torch.cuda.max_memory_allocated()
    speed = rows * length / seconds
    used = speed * costs.training_flops(shapes.LARGE, length)
    known = _peak_flops()
    print(
        f"recompute {recompute}: peak {peak / costs.GIB:.2f} GiB, planned {planned.total / costs.GIB:.2f} "
        f"{planned}; {speed:,.0f} tokens/s, {used / 1e12:.0f} TFLOP/s, "
        + (f"MFU {used / known:.1%}" if known else "MFU unknown: the device is not in costs.DEVICES")
    )
    assert 0.7 < peak / planned.total < 1.2


def one_step(engine: Engine, model: ModelConfig, rows: int, length: int) -> None:
    from pretrain.batch import MicroBatch, StepBatch

    tokens = torch.randint(model.vocab_size, (rows, length))
    ones, places = torch.ones(rows, length), torch.arange(length).expand(rows, length)
    batch = StepBatch([MicroBatch(tokens, tokens, ones, places)], {}, "", float(rows * length))
    engine.train_step(batch, lambda out, micro: (engine.token_loss(out, micro.labels).sum(), {}), 1e-4)
