"""One tensor's name and layout: Megatron's, and that of transformers' ``YoutuForCausalLM``. Bit for bit.

"Megatron" here is the whole model: layers numbered from 0 through all pipeline stages, tensor-parallel parts
joined. Tensors pass one at a time, so that a model never has to be held twice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pretrain.config import ModelConfig
from stemma.core.errors import StemmaError

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
SHOWN = 5


def megatron_names(model: ModelConfig) -> list[str]:
    """Every parameter of the whole model under Megatron's names, in order."""
    skipped = "linear_q_proj" if model.q_lora_rank is not None else "q_down_proj|q_layernorm|q_up_proj"
    modules = [name for name in [*LAYER, GATED] if not re.search(skipped, name)]
    layers = [
        f"decoder.layers.{layer}.{name}.weight" for layer in range(model.num_layers) for name in modules
    ]
    outer = [name for name in OUTER if name != "output_layer.weight" or not model.tie_word_embeddings]
    return [*outer, *layers]


def hf_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the model under transformers' names, sorted by name."""
    hidden, heads, latent = model.hidden_size, model.num_attention_heads, model.kv_lora_rank
    query = heads * model.qk_head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.kv_a_proj_with_mqa": (latent + model.qk_rope_head_dim, hidden),
        "self_attn.kv_a_layernorm": (latent,),
        "self_attn.kv_b_proj": (heads * (model.qk_nope_head_dim + model.v_head_dim), latent),
        "self_attn.o_proj": (hidden, heads * model.v_head_dim),
        "mlp.gate_proj": (model.ffn_hidden_size, hidden),
        "mlp.up_proj": (model.ffn_hidden_size, hidden),
        "mlp.down_proj": (hidden, model.ffn_hidden_size),
    }
    if model.q_lora_rank is None:
        layer["self_attn.q_proj"] = (query, hidden)
    else:
        layer["self_attn.q_a_proj"] = (model.q_lora_rank, hidden)
        layer["self_attn.q_a_layernorm"] = (model.q_lora_rank,)
        layer["self_attn.q_b_proj"] = (query, model.q_lora_rank)
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{number}.{module}.weight": shape
        for number in range(model.num_layers)
        for module, shape in layer.items()
    }
    shapes["model.embed_tokens.weight"] = (model.vocab_size, hidden)
    shapes["model.norm.weight"] = (hidden,)
    if not model.tie_word_embeddings:
        shapes["lm_head.weight"] = (model.vocab_size, hidden)
    return dict(sorted(shapes.items()))


def whole_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the whole model under Megatron's names, in order."""
    shapes = hf_shapes(model)
    whole: dict[str, tuple[int, ...]] = {}
    for name in megatron_names(model):
        parts = [shapes[part] for part in hf_names(name)]
        whole[name] = (sum(part[0] for part in parts), *parts[0][1:])
    return whole


def megatron_to_hf(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Rename tensor by tensor, and split the gated projection. The tensors are views of the given ones."""
    for name, tensor in weights:
        parts = tensor.chunk(2) if name.endswith(f"{GATED}.weight") else [tensor]
        yield from zip(hf_names(name), parts, strict=True)


def hf_to_megatron(weights: Mapping[str, Tensor], model: ModelConfig) -> Mapping[str, Tensor]:
    """The inverse of ``megatron_to_hf``, as a view: a tensor is taken (and joined) when it is asked for.

    Args:
        weights: under transformers' names, perhaps read lazily (``HFFolder``). A copy of tied embeddings
            under ``lm_head``, which some folders have, is ignored.
        model: the shape.

    Raises:
        StemmaError: tensors are missing, too many, or of the wrong shape; names them.
    """
    check_shapes({name: tuple(weights[name].shape) for name in weights}, model)
    return MegatronView(weights, model)


class MegatronView(Mapping[str, Tensor]):
    """Weights under transformers' names, seen under Megatron's. They fit the model: nothing is checked."""

    def __init__(self, weights: Mapping[str, Tensor], model: ModelConfig) -> None:
        self.weights = weights
        self.names = dict.fromkeys(megatron_names(model))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        parts = [self.weights[part] for part in hf_names(name)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def hf_names(name: str) -> list[str]:
    """Names in transformers of what Megatron holds under ``name``, in the order it joins them."""
    if name in OUTER:
        return [OUTER[name]]
    _, _, number, module = name.removesuffix(".weight").split(".", 3)
    halves = ["mlp.gate_proj", "mlp.up_proj"] if module == GATED else [LAYER[module]]
    return [f"model.layers.{number}.{half}.weight" for half in halves]


def check_shapes(
    found: Mapping[str, Sequence[int]], model: ModelConfig, where: str = "these weights"
) -> None:
    """Compare the tensors of a folder or a state dict with those of a model.

    Raises:
        StemmaError: tensors are missing, unknown or of the wrong shape; names them.
    """
    expected = hf_shapes(model)
    ignored = {"lm_head.weight"} if model.tie_word_embeddings else set()
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys() - ignored)
    wrong = [
        f"{name} is {list(found[name])} in place of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != shape
    ]
    if missing or unknown or wrong:
        shown = "; ".join([*wrong[:SHOWN], f"missing {missing[:SHOWN]}, unknown {unknown[:SHOWN]}"])
        raise StemmaError(f"{where} are not of a {model.num_layers}-layer model of this shape: {shown}")
