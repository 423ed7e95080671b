"""Training tokens per second of our Megatron engine against a plain transformers loop.

Same shapes (nano's, and one of 25 million parameters), fp32, same batch, same threads, AdamW and clipping on
both sides; steps are interleaved and medians are compared. Then where a step of ours goes, and what two
data-parallel processes reach of twice the speed of one.

    python -m benchmarks.engine [--steps 5] [--threads 2]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.config import ModelConfig
    from pretrain.engine import Engine

BATCHES = {"nano": ((8, 256), (4, 512), (2, 1024)), "25 M": ((8, 256), (2, 1024))}
KINDS = {
    "matrix products": ("mkldnn::_linear", "aten::mm", "aten::addmm", "aten::bmm"),
    "attention kernel": ("aten::_scaled_dot_product",),
    "softmax of the loss": ("aten::_softmax", "aten::amax", "_TokenStatistics", "aten::scatter_add"),
    "optimizer": ("aten::_fused_adamw", "aten::_foreach", "aten::linalg_vector_norm", "Optimizer"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side and shape")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of the comparison")
    parser.add_argument("--replica", action="store_true", help=argparse.SUPPRESS)  # one rank of scaling()
    arguments = parser.parse_args()
    if arguments.replica:
        replica(arguments.steps)
    elif os.environ.get("OMP_NUM_THREADS") != str(arguments.threads):
        # The thread pool's size is read once, when torch is imported.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]])
    else:
        print(f"fp32, {arguments.threads} threads, on {os.cpu_count()} cores")
        for name in BATCHES:
            compare(name, arguments.steps, arguments.threads)
        scaling(arguments.steps)


def shape(name: str) -> "ModelConfig":
    from stemma.profile import load_profile

    model = load_profile("nano").model
    if name == "nano":
        return model
    wider = {"vocab_size": 16_384, "hidden_size": 384, "num_layers": 12, "num_attention_heads": 8}
    wider |= {"ffn_hidden_size": 1024, "q_lora_rank": 192, "kv_lora_rank": 128}
    return model.model_copy(update=wider)


def build(name: str, ranks: int = 1, threads: int = 1) -> "Engine":
    from pretrain.engine import Engine
    from stemma.core.stage import Execution
    from stemma.profile import load_profile

    training = load_profile("nano").training.commonsense
    return Engine.build(shape(name), training, Execution(data_parallel=ranks, threads=threads))


def compare(name: str, steps: int, threads: int) -> None:
    engine = build(name, threads=threads)
    print(f"\n{name}: {engine.model.parameters:,} parameters")
    print(f"{'batch x length':>16} {'ours':>12} {'transformers':>14} {'ratio':>7}   tokens/s, medians")
    for rows, length in BATCHES[name]:
        sides = {"ours": ours(engine, rows, length), "theirs": theirs(engine.model, rows, length)}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for step in range(steps + 1):
            for side, train in sides.items():
                started = time.perf_counter()
                train()
                if step:  # the first one allocates
                    seconds[side].append(time.perf_counter() - started)
        speed = {side: rows * length / statistics.median(values) for side, values in seconds.items()}
        ratio = speed["ours"] / speed["theirs"]
        print(f"{f'{rows} x {length}':>16} {speed['ours']:12,.0f} {speed['theirs']:14,.0f} {ratio:7.2f}")
    parts = " | ".join(f"{kind} {share:.0%}" for kind, share in where(ours(engine, 8, 256)).items())
    print(f"a step of ours, 8 x 256: {parts}")
    engine.close()


def where(step: Callable[[], None]) -> dict[str, float]:
    """Shares of a step's time by kind of operation, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    spent = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in profiler.key_averages():
        kinds = [kind for kind, names in KINDS.items() if event.key.startswith(names)]
        spent[kinds[0] if kinds else "everything else"] += event.self_cpu_time_total
    return {kind: value / sum(spent.values()) for kind, value in spent.items()}


def scaling(steps: int) -> None:
    """Steps of 8 x 256 tokens per process, each on one thread: one process, and two that add up gradients."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for ranks, found in speeds.items():
            arguments = [f"--nproc-per-node={ranks}", "-m", "benchmarks.engine", "--replica"]
            out = subprocess.run(
                [*command, *arguments, f"--steps={steps}"],
                env=environment,
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
            found.append(float(out.stdout.split()[-1]))
    one, two = max(speeds[1]), max(speeds[2])
    print(f"\nnano, one thread each: one process {one:,.0f} tokens/s, two (data parallel) {two:,.0f}")
    print(f"data-parallel efficiency: {two / (2 * one):.0%}")


def replica(steps: int) -> None:
    import torch.distributed as dist

    engine = build("nano", ranks=int(os.environ["WORLD_SIZE"]))
    train = ours(engine, 8, 256)
    seconds = []
    for step in range(steps + 1):
        dist.barrier()
        started = time.perf_counter()
        train()
        if step:
            seconds.append(time.perf_counter() - started)
    if engine.rank == 0:
        print(8 * 256 * engine.world_size / statistics.median(seconds))
    engine.close()


def ours(engine: "Engine", rows: int, length: int) -> Callable[[], None]:
    import torch

    from pretrain.batch import MicroBatch, StepBatch

    ids = _ids(rows, length, engine.model.vocab_size)
    positions = torch.arange(length).expand(rows, length)
    micro = MicroBatch(
        ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, length), positions, []
    )
    batch = StepBatch([micro], {}, "", float(rows * length * engine.data_size))

    def loss(output: "Tensor", part: MicroBatch) -> "tuple[Tensor, dict[str, Tensor]]":
        return (engine.token_loss(output, part.labels) * part.loss_mask).sum(), {}

    def step() -> None:
        engine.train_step(batch, loss, 1e-3)

    return step


def theirs(shape: "ModelConfig", rows: int, length: int) -> Callable[[], None]:
    import torch
    from transformers import YoutuForCausalLM

    from pretrain.convert import hf_config

    model = YoutuForCausalLM(hf_config(shape)).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = _ids(rows, length, shape.vocab_size)

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
