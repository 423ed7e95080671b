"""AdamW through Megatron's optimizer: fp32 masters for half precision, clipping over all ranks."""

import math
from collections.abc import Callable

import torch

from pretrain import device
from pretrain.config import LossScaleConfig, OptimizerConfig
from pretrain.precision import loss_scale_fields

# isort: split
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import optimizer as megatron_optimizer
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
        settings: AdamW and clipping.
        distributed: each data-parallel rank keeps its own part of the moments (ZeRO-1).
        loss_scale: of fp16; None: the defaults.
    """
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
        )
    for group in optimizer.param_groups:
        if isinstance(getattr(optimizer, "optimizer", None), torch.optim.AdamW):
            group["fused"] = True  # one pass over memory; the CPU has this kernel too
    return optimizer


def set_learning_rate(optimizer: MegatronOptimizer, settings: OptimizerConfig, lr: float) -> None:
    """Set rate and decay of the next step; norms are not decayed. Megatron leaves both to its scheduler."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
        group["weight_decay"] = settings.weight_decay * group["wd_mult"]


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
