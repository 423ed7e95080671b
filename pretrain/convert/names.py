"""Weights between Megatron's names and those of transformers' ``YoutuForCausalLM``, bit for bit.

"Megatron" here is the whole model: layers numbered from 0 through all pipeline stages, tensor-parallel parts
joined.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.config import ModelConfig
from stemma.core.errors import StemmaError
from stemma.core.files import write_atomic, write_json

if TYPE_CHECKING:
    from transformers import YoutuConfig

    from pretrain.model import LanguageModel

OUTER = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "output_layer.weight": "lm_head.weight",
}
LAYER = {
    "input_layernorm": "input_layernorm",
    "pre_mlp_layernorm": "post_attention_layernorm",
    "self_attention.linear_q_proj": "self_attn.q_proj",
    "self_attention.linear_q_down_proj": "self_attn.q_a_proj",
    "self_attention.q_layernorm": "self_attn.q_a_layernorm",
    "self_attention.linear_q_up_proj": "self_attn.q_b_proj",
    "self_attention.linear_kv_down_proj": "self_attn.kv_a_proj_with_mqa",
    "self_attention.kv_layernorm": "self_attn.kv_a_layernorm",
    "self_attention.linear_kv_up_proj": "self_attn.kv_b_proj",
    "self_attention.linear_proj": "self_attn.o_proj",
    "mlp.linear_fc2": "mlp.down_proj",
}
GATED = "mlp.linear_fc1"  # [gate; up] in Megatron, two tensors in transformers


def megatron_names(model: ModelConfig) -> list[str]:
    """Every parameter of the whole model under Megatron's names, in order."""
    skipped = "linear_q_proj" if model.q_lora_rank is not None else "q_down_proj|q_layernorm|q_up_proj"
    modules = [name for name in [*LAYER, GATED] if not re.search(skipped, name)]
    layers = [
        f"decoder.layers.{layer}.{name}.weight" for layer in range(model.num_layers) for name in modules
    ]
    outer = [name for name in OUTER if name != "output_layer.weight" or not model.tie_word_embeddings]
    return [*outer, *layers]


def megatron_to_hf(state: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Rename, and split the gated projection. The tensors are views of the given ones.

    Args:
        state: the whole model under Megatron's names; an empty one gives an empty one.
        model: its shape.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in OUTER:
            result[OUTER[name]] = tensor
            continue
        prefix, module = _split(name)
        if module == GATED:
            result[f"{prefix}.mlp.gate_proj.weight"], result[f"{prefix}.mlp.up_proj.weight"] = tensor.chunk(2)
        else:
            result[f"{prefix}.{LAYER[module]}.weight"] = tensor
    return result


def hf_to_megatron(state: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Inverse of ``megatron_to_hf``. A copy of tied embeddings under ``lm_head`` is ignored.

    Raises:
        StemmaError: tensors are missing, too many, or of the wrong shape; names them.
    """
    state = dict(state)
    if model.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    result: dict[str, Tensor] = {}
    missing = []
    for name in megatron_names(model):
        try:
            if name in OUTER:
                result[name] = state.pop(OUTER[name])
                continue
            prefix, module = _split(name)
            if module == GATED:
                halves = [state.pop(f"{prefix}.mlp.{half}_proj.weight") for half in ("gate", "up")]
                result[name] = torch.cat(halves)
            else:
                result[name] = state.pop(f"{prefix}.{LAYER[module]}.weight")
        except KeyError as error:
            missing.append(str(error.args[0]))
    count = sum(tensor.numel() for tensor in result.values())
    if missing or state or count != model.parameters:
        raise StemmaError(
            f"these weights are not of a {model.num_layers}-layer model of this shape: "
            f"missing {missing[:5]}, unknown {sorted(state)[:5]}, {count} parameters of {model.parameters}"
        )
    return result


def _split(name: str) -> tuple[str, str]:
    """``decoder.layers.3.mlp.linear_fc1.weight`` -> (``model.layers.3``, ``mlp.linear_fc1``)."""
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"model.layers.{layer}", module


def hf_config_dict(model: ModelConfig, rope_theta: float | None = None, **overrides: Any) -> dict[str, Any]:
    """``config.json`` of the model.

    Args:
        model: the shape.
        rope_theta: base of the rotary frequencies, if a later stage changed the model's.
        overrides: further fields, such as ``bos_token_id`` and ``eos_token_id``.

    Raises:
        ValueError: ``pad_token_id`` is among them. transformers zeroes that row of the embedding on loading,
            and ours is the end token's: a model loaded so could never end a turn.
    """
    if overrides.get("pad_token_id") is not None:
        raise ValueError("pad_token_id does not belong into config.json; generation_config.json has it")
    return {
        "architectures": ["YoutuForCausalLM"],
        "model_type": "youtu",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_attention_heads,
        "q_lora_rank": model.q_lora_rank,
        "kv_lora_rank": model.kv_lora_rank,
        "qk_nope_head_dim": model.qk_nope_head_dim,
        "qk_rope_head_dim": model.qk_rope_head_dim,
        "v_head_dim": model.v_head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_position_embeddings,
        "initializer_range": model.linear_std,
        "embedding_initializer_range": model.embedding_std,
        "rms_norm_eps": model.rms_norm_eps,
        "tie_word_embeddings": model.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta or model.rope_theta},
        "rope_interleave": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **overrides,
    }


def hf_config(model: ModelConfig, rope_theta: float | None = None, **overrides: Any) -> "YoutuConfig":
    """The same as transformers' config object."""
    from transformers import YoutuConfig

    fields = hf_config_dict(model, rope_theta, **overrides)
    return YoutuConfig(**{name: value for name, value in fields.items() if name != "model_type"})


def write_hf(
    folder: Path,
    state: dict[str, Tensor],
    model: ModelConfig,
    rope_theta: float | None = None,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` for ``AutoModelForCausalLM.from_pretrained``.

    Args:
        folder: made if missing.
        state: ``Engine.hf_state_dict()``.
        model: the shape.
        rope_theta: as for ``hf_config_dict``.
        dtype: of the stored weights.
        overrides: further fields of the config.
    """
    from safetensors.torch import save

    name = str(dtype).removeprefix("torch.")
    tensors = {key: tensor.to(dtype).contiguous() for key, tensor in state.items()}
    write_json(folder / "config.json", hf_config_dict(model, rope_theta, dtype=name, **overrides))
    write_atomic(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))


@torch.no_grad()
def load_into(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy weights into a live ``YoutuForCausalLM`` in place.

    Raises:
        StemmaError: it is not a model of this shape.
    """
    own = dict(module.named_parameters())
    if own.keys() != state.keys():
        raise StemmaError(f"the model lacks or adds parameters: {sorted(own.keys() ^ state.keys())[:5]}")
    for name, tensor in state.items():
        own[name].copy_(tensor)


@torch.no_grad()
def gather(module: "LanguageModel", model: ModelConfig) -> dict[str, Tensor]:
    """The whole model from all ranks, on rank 0's CPU; an empty dict elsewhere. Every rank has to call it.

    Tensors are of rank 0's own memory where one rank holds everything: copy what must outlive a step.
    """
    from megatron.core import parallel_state

    from pretrain.model import global_name, join_shards

    tensor_size = parallel_state.get_tensor_model_parallel_world_size()
    tensor_group = parallel_state.get_tensor_model_parallel_group()
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    pipeline_group = parallel_state.get_pipeline_model_parallel_group()
    first = module.decoder.layers[0].layer_number - 1
    mine = {
        global_name(name, first, model.tie_word_embeddings): parameter.detach()
        for name, parameter in module.named_parameters()
    }
    if tensor_size > 1:
        for name, part in mine.items():
            parts = [torch.empty_like(part) for _ in range(tensor_size)]
            dist.all_gather(parts, part.contiguous(), group=tensor_group)
            mine[name] = join_shards(name, parts)
    if stages > 1:
        shapes: list[dict[str, torch.Size]] = [{} for _ in range(stages)]
        dist.all_gather_object(shapes, {name: t.shape for name, t in mine.items()}, group=pipeline_group)
        dtype, where = next(iter(mine.values())).dtype, next(iter(mine.values())).device
        ranks = dist.get_process_group_ranks(pipeline_group)
        for stage, theirs in enumerate(shapes[1:], 1):
            for name, shape in theirs.items():
                if name in shapes[0]:  # the tied output layer is the first stage's embedding
                    continue
                if dist.get_rank() == ranks[stage]:
                    dist.send(mine[name].contiguous(), ranks[0])
                elif dist.get_rank() == ranks[0]:
                    dist.recv(
                        mine.setdefault(name, torch.empty(shape, dtype=dtype, device=where)), ranks[stage]
                    )
    if dist.get_rank() != 0:
        return {}
    return {name: mine[name].cpu() for name in megatron_names(model)}


@torch.no_grad()
def scatter(module: "LanguageModel", model: ModelConfig, state: dict[str, Tensor]) -> None:
    """Fill this rank's part of the model from the whole, which every rank passes."""
    from megatron.core import parallel_state

    from pretrain.model import global_name, tensor_shard

    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    first = module.decoder.layers[0].layer_number - 1
    for local_name, parameter in module.named_parameters():
        name = global_name(local_name, first, model.tie_word_embeddings)
        parameter.copy_(tensor_shard(name, state[name], rank, size))
