"""What a precision means to Megatron-core: the fields of its configs, and where it cannot run.

fp32 computes in fp32. bf16 and fp16 keep weights and activations in 16 bits, master weights, moments and
summed gradients in fp32; fp16 scales its loss. fp8 is bf16 with the layers' linear products in 8 bits: by
Transformer Engine on CUDA (never run: no such device was at hand; the field names are those of Megatron-core
0.16), or simulated (``pretrain.simulated``).
"""

from dataclasses import dataclass
from typing import Any

import torch

from pretrain import device
from pretrain.config import FP8Config, FP8Recipe, LossScaleConfig, ModelConfig, Precision
from pretrain.topology import Topology
from stemma.core.errors import StemmaError

# isort: split
from megatron.core.fp8_utils import HAVE_TE, get_fp8_align_size
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.grad_scaler import DynamicGradScaler
from megatron.core.utils import get_te_version

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}

_NEEDS: dict[FP8Recipe, tuple[tuple[int, int], tuple[int, int], str]] = {
    "tensorwise": ((8, 9), (2, 2), "Ada, Hopper or newer"),
    "delayed": ((8, 9), (1, 0), "Ada, Hopper or newer"),
    "blockwise": ((9, 0), (2, 3), "Hopper or newer"),
    "mxfp8": ((10, 0), (2, 1), "Blackwell"),
}
"""Compute capability and version of Transformer Engine (``megatron/core/fp8_utils.py``) of each recipe."""


@dataclass(frozen=True)
class Machine:
    """What decides whether FP8 runs: ``here()`` is this machine's.

    Attributes:
        capability: compute capability of the GPU; None: no CUDA.
        transformer_engine: its version; None: not installed.
    """

    capability: tuple[int, int] | None
    transformer_engine: tuple[int, int] | None

    @classmethod
    def here(cls) -> "Machine":
        """This process's device and packages."""
        version = get_te_version() if HAVE_TE else None
        return cls(
            torch.cuda.get_device_capability() if device.ON_CUDA else None,
            (version.major, version.minor) if version else None,
        )


def model_fields(precision: Precision, fp8: FP8Config) -> dict[str, Any]:
    """Fields of Megatron's ``TransformerConfig``.

    Simulated FP8 is bf16 to Megatron: the layers do the rest themselves.
    """
    dtype = DTYPES[precision]
    fields: dict[str, Any] = {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
    }
    if precision == "fp8" and not fp8.simulate:
        start, end = fp8.num_layers_at_start_in_bf16, fp8.num_layers_at_end_in_bf16
        fields |= {
            "fp8": fp8.chosen_format,
            "fp8_recipe": fp8.recipe,
            "fp8_margin": fp8.margin,
            "fp8_amax_history_len": fp8.amax_history_len,
            "fp8_amax_compute_algo": "max",
            "first_last_layers_bf16": start + end > 0,
            "num_layers_at_start_in_bf16": start,
            "num_layers_at_end_in_bf16": end,
        }
    return fields


def loss_scale_fields(scale: LossScaleConfig) -> dict[str, Any]:
    """Fields of Megatron's ``OptimizerConfig``; it looks at them with fp16 only."""
    return {
        "initial_loss_scale": scale.initial,
        "min_loss_scale": scale.minimum,
        "loss_scale_window": scale.window,
        "hysteresis": scale.hysteresis,
    }


def loss_scales(optimizer: MegatronOptimizer) -> list[dict[str, Any]]:
    """State of the dynamic loss scales, for a checkpoint; empty without fp16."""
    return [scaler.state_dict() for scaler in _scalers(optimizer)]


def load_loss_scales(optimizer: MegatronOptimizer, states: list[dict[str, Any]]) -> None:
    """Take over ``loss_scales()``; of a run without fp16 there are none, and the first scale stays."""
    for scaler, state in zip(_scalers(optimizer), states):
        scaler.load_state_dict(state)


def _scalers(optimizer: MegatronOptimizer) -> list[DynamicGradScaler]:
    scalers = (getattr(part, "grad_scaler", None) for part in optimizer.chained_optimizers)
    return [scaler for scaler in scalers if scaler is not None]


def check_fp8(model: ModelConfig, fp8: FP8Config, topology: Topology, machine: Machine) -> None:
    """Refuse FP8 where it cannot run.

    Raises:
        StemmaError: lists every reason, and what to do.
    """
    in_bf16 = fp8.num_layers_at_start_in_bf16 + fp8.num_layers_at_end_in_bf16
    reasons = []
    if in_bf16 >= model.num_layers:
        reasons.append(f"{in_bf16} layers stay in bf16 and the model has {model.num_layers}: none is left")
    if not fp8.simulate:
        reasons += _hardware(fp8, machine) + _widths(model, fp8, topology.tensor)
        stage = model.num_layers // topology.pipeline
        if max(fp8.num_layers_at_start_in_bf16, fp8.num_layers_at_end_in_bf16) > stage:
            reasons.append(f"more layers stay in bf16 at one end than a pipeline stage has ({stage})")
    if reasons:
        advice = "Use precision: bf16, or set fp8.simulate to see its numerics (slowly) on any device."
        listed = "\n".join(f"  {reason}" for reason in reasons)
        raise StemmaError(f"precision fp8 with recipe {fp8.recipe} cannot run:\n{listed}\n{advice}")


def _hardware(fp8: FP8Config, machine: Machine) -> list[str]:
    capability, version, name = _NEEDS[fp8.recipe]
    wanted = f"it needs a GPU of compute capability {_dotted(capability)} ({name})"
    reasons = []
    if machine.capability is None:
        reasons.append(f"{wanted}, and there is no CUDA device")
    elif machine.capability < capability:
        reasons.append(f"{wanted}, and this one has {_dotted(machine.capability)}")
    wanted = f"it needs Transformer Engine {_dotted(version)} or newer (pip install stemma[gpu])"
    if machine.transformer_engine is None:
        reasons.append(f"{wanted}, and none is installed")
    elif machine.transformer_engine < version:
        reasons.append(f"{wanted}, and {_dotted(machine.transformer_engine)} is installed")
    return reasons


def _widths(model: ModelConfig, fp8: FP8Config, tensor_parallel: int) -> list[str]:
    """Tensor cores take operands of whole multiples only (``get_fp8_align_size``)."""
    heads, unit = model.num_attention_heads, get_fp8_align_size(fp8.recipe)
    whole = {"hidden_size": model.hidden_size, "kv_lora_rank": model.kv_lora_rank}
    split = {
        "kv_lora_rank + qk_rope_head_dim": model.kv_lora_rank + model.qk_rope_head_dim,
        "heads * qk_head_dim": heads * model.qk_head_dim,
        "heads * (qk_nope_head_dim + v_head_dim)": heads * (model.qk_nope_head_dim + model.v_head_dim),
        "heads * v_head_dim": heads * model.v_head_dim,
        "ffn_hidden_size": model.ffn_hidden_size,
    }
    if model.q_lora_rank is not None:
        split["q_lora_rank"] = model.q_lora_rank
    widths = whole | {
        name if tensor_parallel == 1 else f"({name}) / tensor_parallel": width / tensor_parallel
        for name, width in split.items()
    }
    uneven = {name: width for name, width in widths.items() if width % unit}
    return [f"{name} is {width:g}, not a multiple of {unit}" for name, width in uneven.items()]


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
