"""Seconds from starting a training to the end of its first step, and where they go.

Nano's model, a step of random tokens, one rank; the same rank below torchrun, as several are started; two
ranks. Ranks say in their heartbeats what they begin, and this watches. The ways take turns.

    python -m benchmarks.startup [--repeat 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.heartbeat import read_beats
from stemma.core.ledger import Ledger
from stemma.core.stage import Execution

if TYPE_CHECKING:
    from pretrain.batch import MicroBatch, StepBatch
    from pretrain.engine import Engine
    from pretrain.launch import Job

PHASES = {
    "starting": "process, until it beats",
    "building the model": "imports",
    "loading": "process group, model, optimizer",
    "training": "objective, records, first batch",
    "first step": "first step",
}


class RandomTokens:
    """An objective of random tokens that never ends."""

    total_steps = 1_000_000

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine

    def batch(self, step: int, engine: "Engine") -> "StepBatch":
        import torch

        from pretrain.batch import MicroBatch, StepBatch

        tokens = torch.randint(0, engine.model.vocab_size, (4, 257))
        ones = torch.ones(4, 256)
        positions = torch.arange(256).expand(4, 256)
        micro = MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), ones, positions)
        return StepBatch([micro], {"random": (4, 1024, 1024)}, "", 1024.0 * engine.data_size)

    def loss(self, output: Any, micro: "MicroBatch") -> tuple[Any, dict[str, Any]]:
        return self.engine.token_loss(output, micro.labels).sum(), {}

    def planned(self, step: int) -> Ledger:
        return Ledger({"random": "random"})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return


def random_tokens(job: "Job", engine: "Engine") -> RandomTokens:
    """The entry of the jobs here."""
    return RandomTokens(engine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="starts of each kind; medians are shown")
    repeat = parser.parse_args().repeat
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ways = {"one rank": (1, False), "one rank, torchrun": (1, True), "two ranks": (2, True)}
    seen: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeat):
        for way, (ranks, torchrun) in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                seen[way].append(start(Path(folder), ranks, torchrun))
    print(f"{'seconds, median of ' + str(repeat):34}" + "".join(f"{way:>20}" for way in ways))
    for phase, text in [*PHASES.items(), ("sum", "all")]:
        row = [statistics.median(times[phase] for times in seen[way]) for way in ways]
        print(f"{text:34}" + "".join(f"{seconds:20.2f}" for seconds in row))


def start(folder: Path, ranks: int, torchrun: bool) -> dict[str, float]:
    """Start a training, end it after its first step, and return the seconds of each phase."""
    from pretrain.launch import JOB, Job, command, environment
    from stemma.core.files import write_atomic, write_json
    from stemma.profile import load_profile

    profile = load_profile("nano")
    execution = Execution(threads=1, data_parallel=ranks)
    training = profile.training_stage("commonsense").training
    write_json(folder / "manifest.json", {"fingerprint": ""})
    job = Job(
        stage="startup",
        entry="benchmarks.startup:random_tokens",
        arguments={},
        model=profile.model,
        training=training,
        execution=execution,
        path=str(folder),
        scratch=str(folder),
        init=None,
        tokenizer=str(folder),
        validation=[],
    )
    write_atomic(folder / JOB, job.model_dump_json())
    program = command(folder / JOB, execution)
    if torchrun and ranks == 1:
        below = ["--standalone", "--nproc-per-node=1", "-m", *program[2:]]
        program = [sys.executable, "-m", "pretrain.lifeline", *below]
    with open(folder / "log", "wb") as log:
        before = time.perf_counter()
        child = subprocess.Popen(program, env=environment(execution), stdout=log, stderr=log)
    reached: dict[str, float] = {}
    try:
        while "first step" not in reached:
            if child.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            if beat := read_beats(folder).get(0):
                reached.setdefault("first step" if beat.step else beat.doing, time.perf_counter() - before)
            time.sleep(0.005)
    finally:
        child.kill()
        child.wait()
    found, last = {}, 0.0
    for phase in PHASES:
        found[phase] = max(reached.get(phase, last) - last, 0.0)
        last = reached.get(phase, last)
    return found | {"sum": last}


if __name__ == "__main__":
    main()
