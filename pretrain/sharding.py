"""What a rank's parameters are in the whole model: their names, and which part of a tensor it holds."""

import re

import torch
from torch import Tensor

EMBEDDING = "embedding.word_embeddings.weight"


def global_name(local_name: str, first_layer: int, tied: bool) -> str:
    """A parameter's name in the whole model: layers are numbered through all pipeline stages.

    A tied output layer on the last stage is a copy of the first stage's embedding and bears its name.
    """
    if tied and local_name == "output_layer.weight":
        return EMBEDDING
    return re.sub(
        r"^decoder\.layers\.(\d+)\.", lambda m: f"decoder.layers.{int(m[1]) + first_layer}.", local_name
    )


def shard_dimension(name: str) -> int | None:
    """The dimension along which tensor parallelism splits a parameter, None if each rank holds it whole."""
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return 1
    return None if "norm" in name else 0


def whole_shape(name: str, shape: torch.Size, size: int) -> list[int]:
    """Shape of the whole parameter of which each of ``size`` ranks holds ``shape``."""
    dimension = shard_dimension(name)
    return [n * size if i == dimension else n for i, n in enumerate(shape)]


def tensor_shard(name: str, whole: Tensor, rank: int, size: int) -> Tensor:
    """One tensor-parallel rank's part of a parameter. SwiGLU's two halves are split each for itself."""
    dimension = shard_dimension(name)
    if dimension is None or size == 1:
        return whole
    if name.endswith("linear_fc1.weight"):
        return torch.cat([half.chunk(size)[rank] for half in whole.chunk(2)])
    return whole.chunk(size, dimension)[rank]


def join_shards(name: str, shards: list[Tensor]) -> Tensor:
    """The whole parameter of the parts of all tensor-parallel ranks; inverse of ``tensor_shard``."""
    dimension = shard_dimension(name)
    if dimension is None or len(shards) == 1:
        return shards[0]
    if name.endswith("linear_fc1.weight"):
        halves = [shard.chunk(2) for shard in shards]
        return torch.cat([half[0] for half in halves] + [half[1] for half in halves])
    return torch.cat(shards, dimension)
