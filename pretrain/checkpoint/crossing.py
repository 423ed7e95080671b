"""Moments saved by the distributed optimizer, for a run without it, and the other way round.

Moments bear the same names in both (``fully_reshardable``). What differs is where fp32 weights are: the
distributed optimizer always writes its own, the plain one only beside 16-bit weights, under another name;
and where the number of steps and the groups' settings are.
"""

from typing import Any

import torch

from pretrain.checkpoint.state import RESHARDABLE

# isort: split
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.optimizer import MegatronOptimizer

DISTRIBUTED, PLAIN = "optimizer.state.param.", "optimizer.state.fp32_param."


def ask_for_the_other(wanted: dict[str, Any], optimizer: MegatronOptimizer) -> None:
    """Change what ``sharded_state_dict`` of an optimizer asks for into what the other kind has written."""
    config = optimizer.config
    if config.use_distributed_optimizer and not (config.bf16 or config.fp16):
        for tensors in wanted["param_state"].values():
            del tensors["param"]  # they are the model's
        return
    mine, theirs = (DISTRIBUTED, PLAIN) if config.use_distributed_optimizer else (PLAIN, DISTRIBUTED)
    for part in nested_values(wanted):
        key = getattr(part, "key", "")
        if key.startswith(mine):
            part.key = theirs + key.removeprefix(mine)


def from_the_other(loaded: dict[str, Any], optimizer: MegatronOptimizer) -> dict[str, Any]:
    """What an optimizer can load, of what was found. The model has its weights already."""
    half = optimizer.config.bf16 or optimizer.config.fp16
    if not optimizer.config.use_distributed_optimizer:
        groups = loaded["optimizer"]["param_groups"]
        plain = loaded["optimizer"] if half else loaded
        steps = [group.pop("step") for group in groups]
        plain["param_groups"] = [
            own | group for own, group in zip(plain["param_groups"], groups, strict=True)
        ]
        plain["state"]["common_step"] = torch.tensor(float(steps[0]))
        return loaded
    plain = loaded["optimizer"] if half else loaded
    step = float(plain["state"]["common_step"])
    if not half:
        (inner,) = optimizer.chained_optimizers
        weights = [weight for buffer in inner.buffers for weight in buffer.param_index_map]
        for at, weight in enumerate(weights):
            loaded["param_state"][at]["param"] = weight.detach()
    return {
        "optimizer": {"param_groups": [group | {"step": step} for group in plain["param_groups"]]},
        "param_state": loaded["param_state"],
        "param_state_sharding_type": RESHARDABLE["distrib_optim_sharding_type"],
    }
