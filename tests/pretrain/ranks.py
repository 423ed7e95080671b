"""What the tests run on several ranks. Started by ``helpers.run_ranks``, never by pytest itself."""

import hashlib
import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from pretrain import context
from pretrain.batch import MicroBatch
from pretrain.config import ModelConfig
from tests.pretrain.helpers import (
    UNTIED,
    amax_histories,
    batch_of,
    build,
    figures,
    gradients_of,
    learn,
    parameter_hash,
    raw_bytes,
    train,
)


def split(ranks: dict[str, int], sharded: bool, training: dict[str, Any]) -> dict[str, Any]:
    """What ``figures`` says of a model that these ranks share; it has to be the same on all of them."""
    engine = build(sharded_optimizer=sharded, training=training, **ranks)
    found = figures(engine)
    same = {name: value for name, value in found.items() if name not in ("initial", "final")}
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, same)
    assert all(other == same for other in everywhere), "ranks report different figures"
    return found


def exact(ranks: dict[str, int]) -> dict[str, Any]:
    """What has to be the same bit for bit: losses without clipping of a model with an output layer of its
    own, and this rank's sum of the gradients of one step."""
    engine = build(UNTIED, training={"optimizer": {"clip_grad": 0.0}}, **ranks)
    gradients = hashlib.sha256(
        b"".join(map(raw_bytes, gradients_of(engine, batch_of(engine, 0))))
    ).hexdigest()
    return {"losses": train(engine, 0, 6), "gradients": gradients}


def gathered(ranks: dict[str, int]) -> list[list[int]]:
    """Tensors of whole rows that attention made, and how many are left: after the forward pass, and after the
    step."""
    engine = build(**ranks)
    storages: list[StorageWeakRef] = []
    counts: list[list[int]] = []
    original = context._made_again

    def count() -> None:
        counts.append([len(storages), sum(not storage.expired() for storage in storages)])

    def see(whole: Tensor) -> Tensor:
        storages.append(StorageWeakRef(whole.untyped_storage()))
        return whole

    def loss(output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        count()
        return engine.token_loss(output, micro.labels).sum(), {}

    step = batch_of(engine, 0)
    with mock.patch.object(
        context, "_made_again", lambda whole, make: original(see(whole), lambda: see(make()))
    ):
        engine.train_step(replace(step, micro=step.micro[:1]), loss, lr=0.0)
    count()
    return counts


def save(ranks: dict[str, int], sharded: bool, folder: str) -> dict[str, Any]:
    """Three steps, and a checkpoint that is written while three more are made."""
    engine = build(sharded_optimizer=sharded, **ranks)
    train(engine, 0, 3)
    engine.saver.begin(Path(folder), {"step": 3})
    losses = train(engine, 3, 6)
    engine.saver.wait()
    return {"losses": losses}


def resume(ranks: dict[str, int], sharded: bool, folder: str, again: str = "") -> dict[str, Any]:
    """Continue from a checkpoint of three steps, after saving it again as these ranks share it."""
    engine = build(sharded_optimizer=sharded, **ranks)
    extra = engine.load(Path(folder))
    if again:
        engine.save(Path(again), extra)
    return {"extra": extra, "losses": train(engine, 3, 6), "hash": parameter_hash(engine)}


def methods(ranks: dict[str, int], training: dict[str, Any], folder: str | None) -> dict[str, Any]:
    """What ``learn`` says of a model that these ranks share, and where wanted a checkpoint after it."""
    engine = build(training=training, **ranks)
    learned = learn(engine)
    if folder:
        engine.save(Path(folder), {})
    return learned


def export(ranks: dict[str, int], model: dict[str, Any], folder: str) -> None:
    """A checkpoint, and the folder that these ranks write together for transformers."""
    engine = build(ModelConfig.model_validate(model), **ranks)
    train(engine, 0, 2)
    engine.save(Path(folder) / "checkpoint", {})
    engine.write_hf(Path(folder) / "hf")


def histories(ranks: dict[str, int], training: dict[str, Any]) -> dict[str, Any]:
    """Four losses, and the histories of delayed scaling after them; the same on all ranks."""
    engine = build(training=training, **ranks)
    losses = train(engine, 0, 4)
    states = [state.tolist() for state in amax_histories(engine)]
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, [losses, states])
    assert all(other == everywhere[0] for other in everywhere), "ranks remember different values"
    return {"losses": losses, "states": states}


FUNCTIONS = {
    "histories": histories,
    "export": export,
    "methods": methods,
    "gathered": gathered,
    "split": split,
    "exact": exact,
    "save": save,
    "resume": resume,
}


def call_all(rank: int, ranks: int, folder: Path) -> None:
    """Do one rank's part of all calls; rank 0 writes down what they return."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=ranks)
    calls = json.loads((folder / "calls.json").read_text())
    results = [FUNCTIONS[name](*arguments) for name, *arguments in calls]
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def fork(rank: int, ranks: int, folder: Path) -> int:
    """Start a rank as a fork of this process, which has imported everything and started no thread."""
    if child := os.fork():
        return child
    try:
        call_all(rank, ranks, folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(ranks: int, folder: Path) -> int:
    children = {fork(rank, ranks, folder) for rank in range(ranks)}
    while children:
        child, status = os.wait()
        children.discard(child)
        if status:
            for other in children:  # they would wait for the dead one
                os.kill(other, signal.SIGKILL)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
