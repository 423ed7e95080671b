"""What a checkpoint holds of a rank: its parts of model and optimizer, and its random generators."""

import copy
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pretrain import device, precision

# isort: split
# Megatron is imported after pretrain.device, which prepares it for a CPU.
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, is_main_replica
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.optimizer import MegatronOptimizer

if TYPE_CHECKING:
    from pretrain.model import LanguageModel

RESHARDABLE = {"distrib_optim_sharding_type": "fully_reshardable"}
"""Moments of the distributed optimizer are stored by parameter, not as the flat pieces that ranks hold."""


@dataclass(frozen=True)
class Snapshot:
    """A rank's state at one moment.

    Attributes:
        sharded: Megatron's sharded state dict; its tensors are this rank's parts of tensors of the whole.
        common: the rest, the same on every rank.
        has_optimizer: an optimizer has no state before its first step.
        random: state of this rank's generators, as text.
    """

    sharded: dict[str, Any]
    common: dict[str, Any]
    has_optimizer: bool
    random: dict[str, str]


class Buffers:
    """Memory that copies are made into. It is kept: fresh pages cost more than copying does."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Any, ...], Tensor] = {}

    def copy(self, tensors: list[ShardedTensor]) -> None:
        """Put a copy in the main memory in place of every tensor's data."""
        targets, sources = [], []
        for tensor in tensors:
            source = tensor.data.detach()
            key = (tensor.key, tensor.global_offset, source.shape, source.dtype)
            if key not in self.kept:
                self.kept[key] = torch.empty(source.shape, dtype=source.dtype, pin_memory=device.ON_CUDA)
            targets.append(self.kept[key])
            sources.append(source)
            tensor.data = self.kept[key]
        if targets:  # a rank may have nothing to write that another has not
            torch._foreach_copy_(targets, sources, non_blocking=device.ON_CUDA)
        if device.ON_CUDA:
            torch.cuda.current_stream().synchronize()


def take(
    module: "LanguageModel", optimizer: MegatronOptimizer, buffers: Buffers | None, validate: bool
) -> Snapshot:
    """This rank's state. Every rank calls it.

    Args:
        module: this rank's part of the model.
        optimizer: its optimizer.
        buffers: copies are made into these, and training may go on. None: the snapshot holds the live
            tensors.
        validate: check that the ranks' parts make up the whole, and that what is common is the same.
    """
    with_optimizer = has_moments(optimizer)
    with device.cuda_answered():
        whole = {"model": module.sharded_state_dict()}
        if with_optimizer:
            whole["optimizer"] = optimizer.sharded_state_dict(whole["model"], metadata=RESHARDABLE)
        whole["loss_scales"] = precision.loss_scales(optimizer)  # steps that overflow come before moments do
        sharded, common = save_preprocess(whole, validate)
    if buffers is not None:
        parts = [part for part in nested_values(sharded) if is_main_replica(part.replica_id)]
        buffers.copy([part for part in parts if isinstance(part, ShardedTensor)])
        for part in parts:
            if isinstance(part, ShardedObject):
                part.data = copy.deepcopy(part.data)
        common = copy.deepcopy(common)
    return Snapshot(sharded, common, with_optimizer, _random_state())


def digests(snapshot: Snapshot) -> list[str]:
    """A line per part that this rank writes: name, place in the whole, and SHA-256 of its bytes."""
    lines = []
    for part in nested_values(snapshot.sharded):
        if not is_main_replica(part.replica_id):
            continue
        sha = hashlib.sha256()
        for piece in _bytes(part.data):
            sha.update(piece)
        lines.append(f"{part.key} {tuple(part.global_shape)} {tuple(part.global_offset)} {sha.hexdigest()}")
    return lines


def digest(lines: list[str], common: dict[str, Any]) -> str:
    """SHA-256 over the parts of all ranks and what is common to them."""
    sha = hashlib.sha256("\n".join(sorted(lines)).encode())
    for piece in _bytes(common):
        sha.update(piece)
    return sha.hexdigest()


def has_moments(optimizer: MegatronOptimizer) -> bool:
    """Whether the optimizer has made a step."""
    return any(len(inner.optimizer.state) > 0 for inner in optimizer.chained_optimizers)


def kind(optimizer: MegatronOptimizer) -> dict[str, Any]:
    """What its state consists of. One that is ``sharded`` over replicas can take the other over."""
    config = optimizer.config
    algorithms = {type(part.optimizer).__name__ for part in optimizer.chained_optimizers}
    return {
        "algorithm": "+".join(sorted(algorithms)),
        "masters": "fp32 beside 16-bit weights" if config.bf16 or config.fp16 else "none, weights are fp32",
        "sharded": bool(config.use_distributed_optimizer),
    }


def restore_random(state: dict[str, str]) -> None:
    """Set this rank's random generators back."""
    tensors = {
        name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in state.items()
    }
    torch.set_rng_state(tensors["cpu"])
    if device.ON_CUDA and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])


def _random_state() -> dict[str, str]:
    state = {"cpu": torch.get_rng_state()}
    if device.ON_CUDA:
        state["cuda"] = torch.cuda.get_rng_state()
    return {name: bytes(value.numpy()).hex() for name, value in state.items()}


def _bytes(value: Any) -> Iterator[Any]:
    """The content of nested containers in an order of its own, bit for bit."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield f"{key}:".encode()
            if key == "param_groups":  # settings are no state; of the distributed optimizer, the step is here
                yield from _bytes([group.get("step") for group in value[key]])
            else:
                yield from _bytes(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _bytes(item)
            yield b","
    elif isinstance(value, io.BytesIO):
        yield value.getvalue()
    elif isinstance(value, float):
        yield value.hex().encode()
    elif value is None or isinstance(value, (bool, int, str, bytes)):
        yield repr(value).encode()
    else:
        raise TypeError(f"a checkpoint's state holds a {type(value).__name__}, which has no bytes to hash")
