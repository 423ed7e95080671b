"""Training tokens per second of our Megatron engine against a plain transformers loop.

Same model (nano's shape, fp32), same batch, same threads, AdamW and clipping on both sides; steps are
interleaved and medians are compared.

    python -m benchmarks.engine [--steps 8] [--threads 2]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.engine import Engine
    from stemma.profile import Profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each side and shape")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(arguments.threads):
        # The thread pool's size is read once, when torch is imported.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]])
    compare(arguments.steps)


def compare(steps: int) -> None:
    from pretrain.engine import Engine
    from stemma.core.stage import Execution
    from stemma.profile import load_profile

    profile = load_profile("nano")
    training = profile.training.commonsense
    engine = Engine.build(profile.model, training, Execution())
    print(f"{profile.model.parameters:,} parameters, fp32, {os.environ['OMP_NUM_THREADS']} threads")
    print(f"{'batch x length':>16} {'ours':>12} {'transformers':>14} {'ratio':>7}   tokens/s, medians")
    for rows, length in ((8, 256), (4, 512), (2, 1024)):
        sides = {"ours": ours(engine, rows, length), "theirs": theirs(profile, rows, length)}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for step in range(steps + 2):
            for name, train in sides.items():
                started = time.perf_counter()
                train()
                if step >= 2:  # the first ones allocate
                    seconds[name].append(time.perf_counter() - started)
        speed = {name: rows * length / statistics.median(values) for name, values in seconds.items()}
        ratio = speed["ours"] / speed["theirs"]
        print(f"{f'{rows} x {length}':>16} {speed['ours']:12,.0f} {speed['theirs']:14,.0f} {ratio:7.2f}")
    engine.close()


def ours(engine: "Engine", rows: int, length: int) -> Callable[[], None]:
    import torch

    from pretrain.batch import MicroBatch, StepBatch

    ids = _ids(rows, length, engine.model.vocab_size)
    positions = torch.arange(length).expand(rows, length)
    micro = MicroBatch(
        ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, length), positions, {}
    )
    batch = StepBatch([micro], {}, "", float(rows * length))

    def loss(output: "Tensor", part: MicroBatch) -> "tuple[Tensor, dict[str, Tensor]]":
        return (engine.token_loss(output, part.labels) * part.loss_mask).sum(), {}

    return lambda: engine.train_step(batch, loss, 1e-3)


def theirs(profile: "Profile", rows: int, length: int) -> Callable[[], None]:
    import torch
    from transformers import YoutuForCausalLM

    from pretrain.convert import hf_config

    model = YoutuForCausalLM(hf_config(profile.model)).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = _ids(rows, length, profile.model.vocab_size)

    def step() -> None:
        logits = model(ids[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _ids(rows: int, length: int, vocab: int) -> "Tensor":
    import torch

    return torch.randint(0, vocab, (rows, length + 1), generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()
