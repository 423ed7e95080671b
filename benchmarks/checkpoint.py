"""How long a training step waits for its checkpoint: written beside the training, and not.

nano's shape, fp32. Steps with and without a save alternate, so that what else the machine does falls on both
sides. A save beside the training makes the step wait for its call (the copy), and slows down the steps it is
written under, which have a core less for that long. Both are shown: what the training waits for, and all it
costs, as the time of the call and two steps less that of two plain steps.

    python -m benchmarks.checkpoint [--rounds 8] [--threads 2]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="saves of each kind")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(arguments.threads):
        # The thread pool's size is read once, when torch is imported.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.checkpoint", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.rounds, arguments.threads)


def measure(root: Path, rounds: int, threads: int) -> None:
    from benchmarks.engine import ours
    from pretrain.checkpoint import step_folder
    from pretrain.engine import Engine
    from stemma.core.stage import Execution
    from stemma.profile import load_profile

    profile = load_profile("nano")
    training = profile.training.commonsense
    engine = Engine.build(profile.model, training, Execution(threads=threads))
    rows, length = training.global_batch_size, 256
    train = ours(engine, rows, length)
    call: dict[str, list[float]] = {"beside": [], "waiting": []}
    stall: dict[str, list[float]] = {"beside": [], "waiting": []}
    plain: list[float] = []

    def two_steps() -> float:
        started = time.perf_counter()
        train()
        train()
        return time.perf_counter() - started

    two_steps()
    engine.save(root / "first", {})
    for number in range(rounds):
        plain.append(two_steps())
        for kind in call:
            started = time.perf_counter()
            engine.saver.begin(step_folder(root, number), {}, copy=kind == "beside")
            if kind == "waiting":
                engine.saver.wait()
            call[kind].append(time.perf_counter() - started)
            stall[kind].append(call[kind][-1] + two_steps())
            engine.saver.wait()
    size = sum(path.stat().st_size for path in step_folder(root, 0).rglob("*") if path.is_file())
    step = statistics.median(plain) / 2
    print(f"{profile.model.parameters:,} parameters, {size / 1e6:.1f} MB, {threads} threads")
    print(f"a step of {rows} x {length} tokens takes {step * 1e3:.0f} ms; medians of {rounds} saves")
    print(f"{'':>10} {'waits':>10} {'of a step':>10} {'all it costs':>14} {'of a step':>10}")
    for kind in call:
        cost = statistics.median(stall[kind]) - statistics.median(plain)
        first = statistics.median(call[kind])
        print(
            f"{kind:>10} {first * 1e3:7.0f} ms {first / step:10.1%} {cost * 1e3:11.0f} ms {cost / step:10.1%}"
        )
    engine.close()


if __name__ == "__main__":
    main()
