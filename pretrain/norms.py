"""Norms of gradients and parameters by group of layers: where in the model something goes wrong.

Groups are the embedding, attention and MLP of each quarter of the depth, all norms, and the output layer
where it has a table of its own. Every parameter is counted once, however the model is split: gradients and
masters are taken from where the optimizer keeps them, squares are added up over the ranks that share them.
"""

import re
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.config import ModelConfig
from pretrain.engine import Engine
from pretrain.sharding import global_name

# isort: split
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared

QUARTERS = 4


def group_of(name: str, model: ModelConfig) -> str:
    """The group of a parameter, by its name in the whole model."""
    if "norm" in name:
        return "norms"
    layer = re.match(r"decoder\.layers\.(\d+)\.", name)
    if layer is None:
        return "output" if name.startswith("output_layer.") else "embedding"
    parts = min(QUARTERS, model.num_layers)
    part = int(layer[1]) * parts // model.num_layers
    inside = [at for at in range(model.num_layers) if at * parts // model.num_layers == part]
    layers = f"{inside[0]}-{inside[-1]}" if len(inside) > 1 else f"{inside[0]}"
    return f"layers_{layers}/{'attention' if '.self_attention.' in name else 'mlp'}"


def groups(model: ModelConfig) -> list[str]:
    """All groups of a model, from the input to the output."""
    names = ["embedding.word_embeddings.weight"]
    for layer in range(model.num_layers):
        names += [f"decoder.layers.{layer}.self_attention.", f"decoder.layers.{layer}.mlp."]
    names += ["decoder.final_layernorm.weight"]
    if not model.tie_word_embeddings:
        names += ["output_layer.weight"]
    return list(dict.fromkeys(group_of(name, model) for name in names))


class GroupNorms:
    """Measures one engine's norms. Every rank holds one and calls it after the same steps."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.groups = groups(engine.model)
        first_layer = engine.module.decoder.layers[0].layer_number - 1
        tied = engine.model.tie_word_embeddings
        found = [
            (held, self.groups.index(group_of(global_name(name, first_layer, tied), engine.model)))
            for name, parameter in engine.module.named_parameters()
            if param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter)
            for held in self._held(parameter)
        ]
        self.parameters = [held for held, _ in found]
        self.index = torch.tensor([group for _, group in found], dtype=torch.long, device=engine.device)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """``grad_norm/GROUP`` and ``param_norm/GROUP``: 2-norms, of gradients before clipping.

        To be called while gradients are ready for the optimizer (``accept`` of ``Engine.train_step``).
        """
        gradients = [_gradient(parameter) for parameter in self.parameters]
        sums = torch.zeros(2, len(self.groups), dtype=torch.float64, device=self.engine.device)
        for row, tensors in zip(sums, (gradients, self.parameters)):
            if tensors:
                norms = torch.stack(torch._foreach_norm(tensors)).double()
                row.index_add_(0, self.index, norms.square())
        if self.engine.world_size > 1:
            dist.all_reduce(sums, group=self.engine.optimizer.get_grad_stats_parallel_group())
        named = zip(("grad_norm", "param_norm"), sums.sqrt().tolist())
        return {f"{what}/{group}": norm for what, row in named for group, norm in zip(self.groups, row)}

    def _held(self, parameter: Tensor) -> Iterator[Tensor]:
        """What this rank's optimizer updates for it: itself, its fp32 master, or a part of either."""
        sharded = False
        for part in self.engine.optimizer.chained_optimizers:
            places = getattr(part, "model_param_group_index_map", None)  # of Megatron's distributed optimizer
            sharded = sharded or places is not None
            if places is not None and parameter in places:
                group, place = places[parameter]
                yield part.optimizer.param_groups[group]["params"][place]
        if not sharded:
            yield getattr(parameter, "main_param", parameter)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "gradients are not ready: norms are measured before the update"
    return parameter.grad
