"""Checkpoints: Megatron's ``dist_checkpointing`` in a folder that is whole and verified, or absent.

Layout of one checkpoint::

    step-00000100/
        state/          Megatron's: tensors of model and optimizer, addressable from any number of ranks
        random.json     state of the random generators of each rank
        model.json      the shape of the model
        extra.json      what the caller wanted to keep
        manifest.json   size and SHA-256 of every file above, written last

A save writes into a hidden neighbour, flushes every file to disk and renames. A load reads every file first
and compares it with the manifest. Tensors' index (``state/.metadata``) is a pickle that torch reads as such;
it is only opened once its SHA-256 fits the manifest, so a checkpoint deserves the trust that the folder it
lies in does.
"""

import os
import queue
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from pretrain import device
from pretrain.config import ModelConfig
from stemma.core.config import differences, identity
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, sha256_file, sync_folder, write_json

# isort: split
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.optimizer import MegatronOptimizer

if TYPE_CHECKING:
    from pretrain.model import LanguageModel

MANIFEST = "manifest.json"
RESHARDABLE = {"distrib_optim_sharding_type": "fully_reshardable"}


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return root / f"step-{step:08d}"


def save(
    folder: Path,
    module: "LanguageModel",
    optimizer: MegatronOptimizer,
    model: ModelConfig,
    extra: dict[str, Any],
) -> None:
    """Write a checkpoint. Every rank calls it; ``folder`` appears whole, or not at all.

    Args:
        folder: must be reachable by all ranks. One that is there already is replaced.
        module: this rank's part of the model.
        optimizer: its optimizer. Before the first step it has no state, and none is written.
        model: the shape.
        extra: JSON.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    state = temporary / "state"
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        state.mkdir(parents=True)
    dist.barrier()
    has_moments = _has_moments(optimizer)
    # Megatron hands results from its writers to the trainer through a server process, for saves that run
    # beside the training. Ours does not: a plain queue does, and spares the 2 s that process takes to start.
    filesystem_async._results_queue = queue.SimpleQueue()
    with device.cuda_answered():
        sharded = {"model": module.sharded_state_dict()}
        if has_moments:
            sharded["optimizer"] = optimizer.sharded_state_dict(sharded["model"], metadata=RESHARDABLE)
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        dist_checkpointing.save(sharded, str(state), strategy)
    random = [None] * dist.get_world_size()
    dist.all_gather_object(random, _random_state())
    if dist.get_rank() == 0:
        write_json(temporary / "random.json", random)
        write_json(temporary / "model.json", identity(model))
        write_json(temporary / "extra.json", {"optimizer": has_moments, "extra": extra})
        _seal(temporary)
        if folder.exists():
            replaced = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
            temporary.rename(folder)
            shutil.rmtree(replaced)
        else:
            temporary.rename(folder)
        sync_folder(folder.parent)
    dist.barrier()


def load(
    folder: Path,
    module: "LanguageModel",
    optimizer: MegatronOptimizer,
    model: ModelConfig,
    weights_only: bool = False,
) -> dict[str, Any]:
    """Take over a checkpoint and return its ``extra``. Every rank calls it.

    Another number of ranks than at the save is fine. Random generators are restored if it is the same number.

    Raises:
        DamagedError: a file is missing or altered; nothing was loaded.
        StemmaError: it is of a model of another shape, or has no optimizer state and one was asked for.
    """
    _agree(lambda: _check(folder, model))
    stored = read_json(folder / "extra.json")
    if not stored["optimizer"] and not weights_only and _has_moments(optimizer):
        raise StemmaError(
            f"{folder} was saved before the first step and has no optimizer state to go back to"
        )
    with_moments = stored["optimizer"] and not weights_only
    with device.cuda_answered():
        sharded = {"model": module.sharded_state_dict()}
        if with_moments:
            sharded["optimizer"] = optimizer.sharded_state_dict(
                sharded["model"], is_loading=True, metadata=RESHARDABLE
            )
        loaded = dist_checkpointing.load(sharded, str(folder / "state"))
        module.load_state_dict(loaded["model"])
        if with_moments:
            optimizer.load_state_dict(loaded["optimizer"])
    random = read_json(folder / "random.json")
    if not weights_only and len(random) == dist.get_world_size():
        _restore_random_state(random[dist.get_rank()])
    return dict(stored["extra"])


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises:
        DamagedError: names each file that is missing or altered.
    """
    if not (folder / MANIFEST).is_file():
        raise DamagedError(f"{folder} is not a whole checkpoint: it has no {MANIFEST}")
    problems = []
    for relative, recorded in read_json(folder / MANIFEST).items():
        path = folder / relative
        if not path.is_file():
            problems.append(f"{relative}: missing")
        elif path.stat().st_size != recorded["bytes"]:
            problems.append(f"{relative}: {path.stat().st_size} bytes, saved with {recorded['bytes']}")
        elif sha256_file(path) != recorded["sha256"]:
            problems.append(f"{relative}: its SHA-256 is not the saved one")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise DamagedError(f"{folder} is damaged; it is refused and was left as it is:\n{listed}")


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoints below ``root``, oldest first, good or not."""
    return sorted(path for path in root.glob("step-*") if path.is_dir())


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what killed saves left. One process calls it."""
    for folder in list_checkpoints(root)[:-keep]:
        doomed = folder.with_name(f".{folder.name}.old")  # a half-deleted checkpoint is never seen as one
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
    for leftover in [*root.glob(".step-*.old"), *root.glob(".step-*.tmp")]:
        shutil.rmtree(leftover)


def _seal(folder: Path) -> None:
    manifest = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        relative = path.relative_to(folder).as_posix()
        manifest[relative] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    sync_folder(folder / "state")
    write_json(folder / MANIFEST, manifest)


def _check(folder: Path, model: ModelConfig) -> None:
    verify(folder)
    changed = differences(read_json(folder / "model.json"), identity(model))
    if changed:
        raise StemmaError(f"{folder} is of a model of another shape: {'; '.join(changed)}")


def _agree(check: Callable[[], None]) -> None:
    """Run a check on rank 0; if it fails, it fails on every rank, so that none waits for the others."""
    outcome: list[StemmaError | None] = [None]
    if dist.get_rank() == 0:
        try:
            check()
        except StemmaError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, 0)
    if outcome[0] is not None:
        raise outcome[0]


def _has_moments(optimizer: MegatronOptimizer) -> bool:
    return any(len(inner.optimizer.state) > 0 for inner in optimizer.chained_optimizers)


def _random_state() -> dict[str, str]:
    state = {"cpu": torch.get_rng_state()}
    if device.ON_CUDA:
        state["cuda"] = torch.cuda.get_rng_state()
    return {name: bytes(value.numpy()).hex() for name, value in state.items()}


def _restore_random_state(state: dict[str, str]) -> None:
    tensors = {
        name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in state.items()
    }
    torch.set_rng_state(tensors["cpu"])
    if device.ON_CUDA and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
