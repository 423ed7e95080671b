"""Weights out of a running model, over all its ranks, and into one: tensor by tensor."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.config import ModelConfig
from pretrain.convert.names import whole_shapes
from pretrain.sharding import global_name, join_shards, tensor_shard
from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from pretrain.model import LanguageModel


@torch.no_grad()
def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a live ``YoutuForCausalLM`` in place.

    Raises:
        StemmaError: it is not a model of this shape.
    """
    own = dict(module.named_parameters())
    if own.keys() != state.keys():
        raise StemmaError(f"the model lacks or adds parameters: {sorted(own.keys() ^ state.keys())[:5]}")
    for name, tensor in state.items():
        own[name].copy_(tensor)


def gather(module: "LanguageModel", model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Megatron's name and value of every whole parameter, on rank 0's CPU; nothing on the other ranks.

    Every rank has to run through it. Ranks pass on one tensor at a time, so rank 0 never holds a second copy
    of the model. Tensors are of rank 0's own memory where it holds them whole: copy what must outlive a step.
    """
    from megatron.core import parallel_state

    if parallel_state.get_data_parallel_rank(with_context_parallel=True) != 0:
        return  # the first replica does it
    tensor_rank = parallel_state.get_tensor_model_parallel_rank()
    tensor_size = parallel_state.get_tensor_model_parallel_world_size()
    tensor_group = parallel_state.get_tensor_model_parallel_group()
    pipeline_group = parallel_state.get_pipeline_model_parallel_group()
    first = module.decoder.layers[0].layer_number - 1
    mine = {
        global_name(name, first, model.tie_word_embeddings): parameter.detach()
        for name, parameter in module.named_parameters()
    }
    stages: list[list[str]] = [list(mine)]
    ranks = dist.get_process_group_ranks(pipeline_group)
    if len(ranks) > 1:
        stages = [[] for _ in ranks]
        dist.all_gather_object(stages, list(mine), group=pipeline_group)
    shapes = whole_shapes(model)
    like = next(iter(mine.values()))
    for name in shapes:
        # A tied output layer is on the last stage too: the first one that has a tensor gives it.
        owner = ranks[next(at for at, names in enumerate(stages) if name in names)]
        whole = mine.get(name)
        if owner == dist.get_rank() and whole is not None and tensor_size > 1:
            parts = [torch.empty_like(whole) for _ in range(tensor_size)]
            dist.all_gather(parts, whole.contiguous(), group=tensor_group)
            whole = join_shards(name, parts)
        if tensor_rank == 0 and owner != ranks[0]:
            if dist.get_rank() == owner and whole is not None:
                dist.send(whole.contiguous(), ranks[0])
            elif dist.get_rank() == ranks[0]:
                whole = torch.empty(shapes[name], dtype=like.dtype, device=like.device)
                dist.recv(whole, owner)
        if dist.get_rank() == 0 and whole is not None:
            yield name, whole.cpu()


@torch.no_grad()
def scatter(module: "LanguageModel", model: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Fill this rank's part of the model from the whole.

    Args:
        module: this rank's part.
        model: the shape.
        state: under Megatron's names; every rank passes it, and only what it needs is read.
    """
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    first = module.decoder.layers[0].layer_number - 1
    for local_name, parameter in module.named_parameters():
        name = global_name(local_name, first, model.tie_word_embeddings)
        parameter.copy_(tensor_shard(name, state[name], rank, size))
