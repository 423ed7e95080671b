"""What losses and optimizers cost, and what they do to a model: steps at nano's shape on real text.

The text is the running Python's standard library, byte by byte. Steps of all methods are interleaved, and the
medians compared. Cross entropy is of held-out text, and plain whatever the training loss was.

    python -m benchmarks.methods [--steps 60] [--threads 1]
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
    from pretrain.batch import MicroBatch
    from pretrain.engine import Engine

METHODS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "AdamW, z-loss": {"loss": {"z_loss": 1e-4}},
    "AdamW, MiLe": {"loss": {"name": "mile"}},
    "Muon": {"optimizer": {"name": "muon"}},
}
ROWS, LENGTH = 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="steps of each method")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(arguments.threads):
        # The thread pool's size is read once, when torch is imported.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.methods", *sys.argv[1:]])
    compare(arguments.steps, arguments.threads)


def compare(steps: int, threads: int) -> None:
    from pretrain.config import TrainingConfig
    from pretrain.engine import Engine
    from pretrain.schedule import learning_rate
    from stemma.core.stage import Execution
    from stemma.profile import load_profile

    model = load_profile("nano").model
    schedule = {"shape": "wsd", "peak_lr": 3e-3, "warmup_steps": 10, "decay_fraction": 0.3}
    fields = {"global_batch_size": ROWS, "micro_batch_size": ROWS, "schedule": schedule}
    engines = {
        name: Engine.build(model, TrainingConfig.model_validate(fields | changes), Execution(threads=threads))
        for name, changes in METHODS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    text = corpus()
    for step in range(steps):
        for name, engine in engines.items():
            rate = learning_rate(engine.training.schedule, step, steps)
            started = time.perf_counter()
            train(engine, batch(text, step), rate)
            seconds[name].append(time.perf_counter() - started)
    print(
        f"{model.parameters:,} parameters, fp32, {threads} threads, {steps} steps of {ROWS} x {LENGTH} bytes"
    )
    print(f"{'':>16} {'ms a step':>10} {'to AdamW':>9} {'cross entropy':>14}   held out, nats per byte")
    base = statistics.median(seconds["AdamW"])
    for name, engine in engines.items():
        median = statistics.median(seconds[name])
        held_out = [batch(text, at) for at in range(steps, steps + 8)]
        nats = engine.evaluate(held_out) / sum(float(micro.loss_mask.sum()) for micro in held_out)
        print(f"{name:>16} {1e3 * median:10.1f} {median / base:9.2f} {nats:14.4f}")
    engine.close()


def train(engine: "Engine", micro: "MicroBatch", lr: float) -> None:
    from pretrain.batch import StepBatch
    from pretrain.losses import next_token_loss

    def loss(output: Any, part: "MicroBatch") -> Any:
        total, _, sums = next_token_loss(engine, output, part, engine.training.loss)
        return total, sums

    engine.train_step(StepBatch([micro], {}, "", float(ROWS * LENGTH)), loss, lr)


def corpus() -> bytes:
    """Modules of the standard library, one after another."""
    library = Path(sysconfig.get_path("stdlib"))
    return b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))


def batch(text: bytes, step: int) -> "MicroBatch":
    """Rows that lie far apart in the text: a function of the step."""
    import torch

    from pretrain.batch import MicroBatch

    windows = len(text) // (LENGTH + 1)
    starts = [((step * ROWS + row) * 7919 % windows) * (LENGTH + 1) for row in range(ROWS)]
    ids = torch.tensor([list(text[start : start + LENGTH + 1]) for start in starts])
    positions = torch.arange(LENGTH).expand(ROWS, LENGTH)
    return MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(ROWS, LENGTH), positions)


if __name__ == "__main__":
    main()
