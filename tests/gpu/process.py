"""One process of the GPU tests, on a device that its environment chooses: ``process COMMAND FOLDER ...``."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from pretrain.engine import Engine
from stemma.core.stage import Execution
from tests.gpu import shapes
from tests.pretrain.ranks import FUNCTIONS

STEPS, EVERY = 12, 3


def save(folder: Path) -> None:
    """Train a little, save, and say what the model makes of other rows."""
    engine = Engine.build(shapes.WIDE, shapes.training(), Execution(threads=2), sharded_optimizer=False)
    shapes.train(engine, 0, 3)
    engine.save(folder / "checkpoint", {})
    (folder / "saved.json").write_text(json.dumps([str(engine.device), shapes.logprobs(engine)]))


def load(folder: Path) -> None:
    """Load what ``save`` left, say what the model makes of other rows, and train on."""
    engine = Engine.build(shapes.WIDE, shapes.training(), Execution(threads=2), sharded_optimizer=False)
    engine.load(folder / "checkpoint")
    found = [str(engine.device), shapes.logprobs(engine), shapes.train(engine, 3, 6)]
    (folder / "loaded.json").write_text(json.dumps(found))


def resume(folder: Path, precision: str, last: str) -> None:
    """Train from the newest checkpoint and die without a word after step ``last``, or reach the end.

    Every step leaves a line of loss and gradient norm, to the last bit.
    """
    torch.use_deterministic_algorithms(True)
    engine = Engine.build(shapes.WIDE, shapes.training(precision=precision), Execution(threads=1))
    saved = sorted(folder.glob("step-*"))
    first = engine.load(saved[-1])["step"] if saved else 0
    receipts = (folder / "receipts.txt").read_text().splitlines()[:first] if first else []
    for step in range(first, STEPS):
        [(loss, norm)] = shapes.train(engine, step, step + 1)
        receipts.append(f"{step} {loss.hex()} {norm.hex()}")
        (folder / "receipts.txt").write_text("\n".join(receipts))
        if step == int(last):
            os.abort()
        if (step + 1) % EVERY == 0:
            engine.save(folder / f"step-{step + 1:04}", {"step": step + 1})


def ranks(folder: Path) -> None:
    """This rank's part of the calls in ``calls.json``, as ``tests.pretrain.ranks`` does them on a CPU."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    calls = json.loads((folder / "calls.json").read_text())
    results = [FUNCTIONS[name](*arguments) for name, *arguments in calls]
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    {"save": save, "load": load, "resume": resume, "ranks": ranks}[command](Path(folder), *rest)
