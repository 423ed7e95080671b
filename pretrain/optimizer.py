"""AdamW or Muon inside Megatron's optimizer: fp32 masters for half precision, clipping over all ranks."""

import math
from collections.abc import Callable
from typing import Any

import torch

from pretrain import device
from pretrain.config import LossScaleConfig, OptimizerConfig
from pretrain.muon import Muon, init_state
from pretrain.precision import loss_scale_fields
from stemma.core.errors import StemmaError

# isort: split
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, ParamKey, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import optimizer as megatron_optimizer
from megatron.core.optimizer.optimizer_config import ParamPredicate, ParamWithNamePredicate
from megatron.core.transformer import TransformerConfig


def build_optimizer(
    model: DistributedDataParallel,
    config: TransformerConfig,
    settings: OptimizerConfig,
    distributed: bool,
    loss_scale: LossScaleConfig | None = None,
) -> MegatronOptimizer:
    """Megatron's optimizer for a wrapped model.

    Args:
        model: this rank's part of the model.
        config: Megatron's config of the model, for its precision.
        settings: which optimizer, weight decay and clipping.
        distributed: each data-parallel rank keeps its own part of the moments (ZeRO-1).
        loss_scale: of fp16; None: the defaults.

    Raises:
        StemmaError: Muon is to be distributed.
    """
    if settings.name == "muon" and distributed:
        raise StemmaError(
            "Muon needs whole matrices, and Megatron's distributed optimizer cuts them anywhere; "
            "build the engine with sharded_optimizer=False, or set optimizer.name to adamw"
        )
    with device.cuda_answered():
        optimizer = get_megatron_optimizer(
            MegatronOptimizerConfig(
                optimizer="adam",
                lr=0.0,  # set_learning_rate, every step
                weight_decay=settings.weight_decay,
                adam_beta1=settings.adam_beta1,
                adam_beta2=settings.adam_beta2,
                adam_eps=settings.adam_eps,
                clip_grad=settings.clip_grad or math.inf,  # infinity: measured, never clipped
                bf16=config.bf16,
                fp16=config.fp16,
                params_dtype=config.params_dtype,
                **loss_scale_fields(loss_scale or LossScaleConfig()),
                use_distributed_optimizer=distributed,
            ),
            [model],
            _groups(settings),
        )
    for group in optimizer.param_groups:
        if isinstance(getattr(optimizer, "optimizer", None), torch.optim.AdamW):
            group["fused"] = True  # one pass over memory; the CPU has this kernel too
    if settings.name == "muon":
        (part,) = optimizer.chained_optimizers
        names = [name for name, parameter in model.module.named_parameters() if is_matrix(parameter, name)]
        split = parallel_state.get_tensor_model_parallel_world_size() > 1
        group = parallel_state.get_tensor_model_parallel_group() if split else None
        part.optimizer = Muon(part.optimizer, names, settings.muon_momentum, group)
        part.init_state_fn = init_state
    return optimizer


def is_matrix(parameter: torch.Tensor, name: str) -> bool:
    """Whether a parameter is a weight of a linear layer inside the transformer's layers."""
    return parameter.dim() == 2 and "decoder.layers." in name


def _groups(settings: OptimizerConfig) -> dict[ParamKey, dict[str, Any]]:
    """Which parameters are treated in other ways than the rest: norms, by choice embeddings, matrices."""
    groups: dict[ParamKey, dict[str, Any]] = {
        ParamKey(predicate=ParamPredicate("vector", lambda parameter: parameter.dim() == 1)): {"wd_mult": 0.0}
    }
    if not settings.decay_embeddings:
        groups[ParamKey(attr="is_embedding_or_output_parameter")] = {"wd_mult": 0.0}
    if settings.name == "muon":
        matrices = ParamWithNamePredicate("matrix", is_matrix)
        # Loading a checkpoint, Megatron tells groups apart by a few fields of theirs. is_decoupled_lr is one
        # of them and means nothing else without its scheduler; a field of our own would not be looked at.
        groups[ParamKey(with_name_predicate=matrices)] = {"muon": True, "is_decoupled_lr": True}
    return groups


def set_learning_rate(optimizer: MegatronOptimizer, settings: OptimizerConfig, lr: float) -> None:
    """Set what the next step goes by. Megatron leaves rate and decay to its scheduler.

    The other settings are set anew too: a checkpoint brings those of the stage it is of.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
        group["weight_decay"] = settings.weight_decay * group["wd_mult"]
        group["betas"] = (settings.adam_beta1, settings.adam_beta2)
        group["eps"] = settings.adam_eps


def update(
    optimizer: MegatronOptimizer, settings: OptimizerConfig, accept: Callable[[float], bool]
) -> tuple[bool, float]:
    """Clip and step as ``optimizer.step()`` does, but leave weights and moments alone where told to.

    Megatron guards only its scaled half precision; one NaN would be in every weight after a plain step.

    Args:
        optimizer: holds the gradients.
        settings: clipping.
        accept: whether to apply a gradient of this norm; the same answer on every rank.

    Returns:
        Whether anything was updated, and the norm of the gradient before clipping (infinite on an fp16
        overflow).
    """
    if optimizer.prepare_grads():
        return False, math.inf
    norm = float(optimizer.get_grad_norm())
    if not accept(norm):
        return False, norm
    for part in optimizer.chained_optimizers:
        if parameters := part.get_parameters():
            # through the module: pretrain.device replaces this function there
            megatron_optimizer.clip_grad_by_total_norm_fp32(
                parameters, max_norm=settings.clip_grad or math.inf, total_norm=norm
            )
    return optimizer.step_with_ready_grads(), norm
