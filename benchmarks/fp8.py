"""What a precision costs in loss, and what it gains in speed on a CPU.

Losses: a small model learns the standard library's sources byte by byte, once per precision and FP8 recipe,
from the same weights and over the same batches. FP8 is simulated: its numerics are those of the recipe, its
speed is not. One run says little, as any rounding sends training another way, so each is made from several
initial weights; a gap is the mean of the differences to fp32 from the same weights, with its standard error.
Steps of fp16 that overflowed its loss scale were skipped.

Speed: steps at the nano profile's shape, interleaved, medians.

    python -m benchmarks.fp8 [--steps 150] [--seeds 3] [--timed 6] [--threads 1]
"""

import argparse
import os
import statistics
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.batch import MicroBatch, StepBatch
    from pretrain.engine import Engine

ROWS, LENGTH, BYTES = 8, 128, 256
PACKAGES = ("asyncio", "concurrent", "email", "http", "importlib", "json", "logging", "multiprocessing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150, help="training steps of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each precision")
    parser.add_argument("--timed", type=int, default=6, help="timed steps of each 16- and 32-bit format")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(arguments.threads):
        # The thread pool's size is read once, when torch is imported.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.fp8", *sys.argv[1:]])
    compare_losses(arguments.steps, arguments.seeds, arguments.threads)
    compare_speed(arguments.timed, arguments.threads)


# --- losses ---


def compare_losses(steps: int, seeds: int, threads: int) -> None:
    from pretrain.config import FP8Config

    runs: dict[str, dict[str, Any]] = {
        "fp32": {},
        "fp32, other micro batches": {"micro_batch_size": ROWS // 2},
        "bf16": {"precision": "bf16"},
        "fp16": {"precision": "fp16"},
    }
    for recipe in ("tensorwise", "delayed", "blockwise", "mxfp8"):
        runs[f"fp8 {recipe}"] = {"precision": "fp8", "fp8": FP8Config(recipe=recipe, simulate=True)}
    last = FP8Config(
        recipe="tensorwise", simulate=True, num_layers_at_start_in_bf16=1, num_layers_at_end_in_bf16=1
    )
    runs["fp8 tensorwise, ends in bf16"] = {"precision": "fp8", "fp8": last}
    text, held_out = library()
    print(
        f"{steps} steps of {ROWS} x {LENGTH} bytes; {len(text):,} bytes to learn, {len(held_out):,} held out"
    )
    print("nats per byte on held-out text; seconds of one run")
    print(f"{'':30} {'loss':>8} {'gap to fp32':>20} {'skipped':>8} {'s':>5}")
    exact: list[float] = []
    for name, settings in runs.items():
        started = time.perf_counter()
        found = [learn(text, held_out, steps, threads, settings | {"seed": seed}) for seed in range(seeds)]
        losses, skipped = [loss for loss, _ in found], sum(count for _, count in found)
        exact = exact or losses  # fp32 is the first
        gaps = [loss - base for loss, base in zip(losses, exact)]
        error = statistics.stdev(gaps) / seeds**0.5 if seeds > 1 else float("nan")
        gap = f"{statistics.fmean(gaps):+.4f} +- {error:.4f}" if losses is not exact else ""
        seconds = (time.perf_counter() - started) / seeds
        print(f"{name:30} {statistics.fmean(losses):8.4f} {gap:>20} {skipped:8} {seconds:5.0f}", flush=True)


def learn(
    text: "Tensor", held_out: "Tensor", steps: int, threads: int, settings: dict[str, Any]
) -> tuple[float, int]:
    """Train a model of four layers.

    Returns:
        Nats per byte of the held-out text, and steps that were skipped.
    """
    from pretrain.config import ModelConfig, ScheduleConfig, TrainingConfig
    from pretrain.engine import Engine
    from pretrain.schedule import learning_rate
    from stemma.core.stage import Execution

    model = ModelConfig(
        vocab_size=BYTES,
        hidden_size=128,
        num_layers=4,
        num_attention_heads=4,
        ffn_hidden_size=384,
        q_lora_rank=96,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        max_position_embeddings=LENGTH,
        rope_theta=10_000.0,
    )
    schedule = ScheduleConfig(shape="cosine", peak_lr=1e-3, warmup_steps=steps // 20)
    training = TrainingConfig(
        **{"global_batch_size": ROWS, "micro_batch_size": ROWS, "schedule": schedule} | settings
    )
    engine = Engine.build(model, training, Execution(threads=threads))
    skipped = 0
    for step in range(steps):
        batch = rows_of(text, step, training.micro_batch_size)
        result = engine.train_step(batch, objective(engine), learning_rate(schedule, step, steps))
        skipped += result.skipped
    windows = held_out[: len(held_out) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    total = engine.evaluate([micro_batch(windows[i : i + 16]) for i in range(0, len(windows), 16)])
    engine.close()
    return total / (len(windows) * LENGTH), skipped


def library() -> tuple["Tensor", "Tensor"]:
    """Modules of this Python's standard library as bytes; every eighth is held out."""
    import torch

    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for number, path in enumerate(path for name in PACKAGES for path in sorted((root / name).rglob("*.py"))):
        parts[number % 8 == 7].append(path.read_bytes())
    text, held_out = (torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8).long() for part in parts)
    return text, held_out[:60_000]


def rows_of(text: "Tensor", step: int, micro_batch_size: int) -> "StepBatch":
    """Windows of the text, a function of the step."""
    import torch

    from pretrain.batch import StepBatch

    starts = torch.randint(
        0, len(text) - LENGTH - 1, (ROWS,), generator=torch.Generator().manual_seed(step)
    ).tolist()
    windows = torch.stack([text[start : start + LENGTH + 1] for start in starts])
    return StepBatch([micro_batch(part) for part in windows.split(micro_batch_size)], {}, "", ROWS * LENGTH)


# --- speed ---


def compare_speed(steps: int, threads: int) -> None:
    """Training steps per format at the nano profile's shape."""
    import torch

    from pretrain.engine import Engine
    from stemma.core.stage import Execution
    from stemma.profile import load_profile

    profile = load_profile("nano")
    rows, length = 8, 256
    windows = torch.randint(
        0, profile.model.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(0)
    )
    engines, seconds = {}, {}
    for precision in ("fp32", "bf16", "fp16"):
        training = profile.training.commonsense.model_copy(update={"precision": precision})
        engines[precision] = Engine.build(profile.model, training, Execution(threads=threads))
        seconds[precision] = []
    from pretrain.batch import StepBatch

    batch = StepBatch([micro_batch(windows)], {}, "", float(rows * length))
    for step in range(steps + 2):
        for precision, engine in engines.items():
            started = time.perf_counter()
            engine.train_step(batch, objective(engine), 1e-3)
            if step >= 2:  # the first ones allocate
                seconds[precision].append(time.perf_counter() - started)
    speed = {name: rows * length / statistics.median(values) for name, values in seconds.items()}
    print(f"\n{profile.model.parameters:,} parameters, {rows} x {length} tokens, {threads} threads")
    print(f"{'':6} {'tokens/s':>9} {'of fp32':>8}")
    for name, value in speed.items():
        print(f"{name:6} {value:9,.0f} {value / speed['fp32']:8.2f}")


# --- both ---


def micro_batch(windows: "Tensor") -> "MicroBatch":
    """Tokens and labels of windows ``[rows, length + 1]``."""
    import torch

    from pretrain.batch import MicroBatch

    rows, length = windows.shape[0], windows.shape[1] - 1
    positions = torch.arange(length).expand(rows, length)
    return MicroBatch(
        windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), torch.ones(rows, length), positions
    )


def objective(engine: "Engine") -> Any:
    """Plain cross entropy."""

    def loss(output: "Tensor", part: "MicroBatch") -> "tuple[Tensor, dict[str, Tensor]]":
        return (engine.token_loss(output, part.labels) * part.loss_mask).sum(), {}

    return loss


if __name__ == "__main__":
    main()
