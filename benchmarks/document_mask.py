"""What attention that stays inside documents costs: training steps of nano's model with and without.

Rows are those of a run's own shards; steps are interleaved and medians are compared.

    python -m benchmarks.document_mask runs/artifacts/tokens-... [--source fineweb] [--steps 8] [--threads 2]
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", type=Path, help="folder of a tokens artifact")
    parser.add_argument("--source", default="fineweb", help="whose documents")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each side and shape")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(arguments.threads):
        # The thread pool's size is read once, when torch is imported.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.document_mask", *sys.argv[1:]])
    compare(arguments.tokens, arguments.source, arguments.steps)


def compare(folder: Path, source: str, steps: int) -> None:
    import numpy as np
    from torch import Tensor

    from data_pipeline.tokens.shards import Tokens
    from pretrain.batch import MicroBatch, Sample, StepBatch, micro_batches
    from pretrain.engine import Engine
    from stemma.core.stage import Execution
    from stemma.profile import load_profile

    profile = load_profile("nano")
    engine = Engine.build(profile.model, profile.training.commonsense, Execution())
    shard = Tokens(folder).shard(source)

    def loss(output: Tensor, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return (engine.token_loss(output, part.labels) * part.loss_mask).sum(), {}

    print(
        f"{'batch x length':>16} {'docs/row':>9} {'open':>12} {'inside':>12} {'ratio':>7}   tokens/s, medians"
    )
    for rows, length in ((8, 256), (4, 512), (2, 1024)):
        samples = []
        for row in range(rows):
            ids = shard.read(row * length, length + 1)
            marks = shard.documents(row * length, length)
            samples.append(Sample(source, ids[:-1], ids[1:], np.ones(length, np.float32), documents=marks))
        (micro,) = micro_batches(samples, rows)
        sides = {"inside": micro, "open": replace(micro, cu_seqlens=None)}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for step in range(steps + 2):
            for name, part in sides.items():
                batch = StepBatch([part], {}, "", float(rows * length))
                started = time.perf_counter()
                engine.train_step(batch, loss, 1e-3)
                if step >= 2:  # the first ones allocate
                    seconds[name].append(time.perf_counter() - started)
        speed = {name: rows * length / statistics.median(values) for name, values in seconds.items()}
        documents = (len(micro.cu_seqlens) - 1) / rows if micro.cu_seqlens is not None else 0
        print(
            f"{f'{rows} x {length}':>16} {documents:>9.1f} {speed['open']:12,.0f} {speed['inside']:12,.0f} "
            f"{speed['inside'] / speed['open']:7.2f}"
        )
    engine.close()


if __name__ == "__main__":
    main()
