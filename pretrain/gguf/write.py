"""GGUF export: one file that llama.cpp runs, weights and tokenizer.

llama.cpp computes dense MLA as ``deepseek2`` with every layer dense. It attends in the latent space (one
key/value head of ``kv_lora_rank + qk_rope_head_dim``), so the key's and the value's up projections are stored
apart, the key's transposed. Rotary pairs are interleaved there as here.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pretrain.config import ModelConfig
from pretrain.convert import HFFolder
from pretrain.gguf.tokenizer import add_tokenizer
from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from gguf import GGUFWriter

GGUFType = Literal["f32", "f16", "bf16"]
ARCHITECTURE = "deepseek2"
WITHOUT_QUERY_LATENT = (26, 27)  # llama.cpp reads direct queries at these depths, and at no other
OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
KEYS_VALUES = "self_attn.kv_b_proj"


def write_gguf(source: Path, target: Path, kind: GGUFType = "bf16") -> int:
    """Convert a Hugging Face folder, tensor by tensor.

    Args:
        source: weights, config and tokenizer.
        target: the file; replaced in one go when it is complete.
        kind: number format of the matrices; vectors (norms) are f32 always, as llama.cpp wants them.

    Returns:
        Layers of zeros that were appended: they add nothing to the residual stream, and bring the model to a
        depth at which llama.cpp reads queries as this model has them.

    Raises:
        StemmaError: llama.cpp cannot run such a model, or would cut text otherwise than the tokenizer does.
    """
    from gguf import GGUFWriter

    weights = HFFolder(source)
    extra = padding_layers(weights.model)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    writer = GGUFWriter(temporary, ARCHITECTURE)
    try:
        add_model(writer, weights.model, weights.model.num_layers + extra)
        add_tokenizer(writer, source, weights.model.vocab_size)
        tensors = GGUFTensors(weights, extra)
        for name, shape in tensors.shapes.items():
            dtype = tensor_type(shape, kind)
            add_tensor_info(writer, name, shape, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            values = tensor.to(tensor_type(tensor.shape, kind)).contiguous()
            writer.write_tensor_data(values.view(torch.uint8).numpy())
        writer.close()
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return extra


def padding_layers(model: ModelConfig) -> int:
    """Layers of zeros to append so that llama.cpp takes the queries for what they are.

    ``deepseek2`` has direct queries at the depths of the published Lite models only, and a query latent at
    every other depth: it goes by the number of layers.

    Raises:
        StemmaError: queries are direct, and the model is deeper than those.
    """
    depth, deepest = model.num_layers, max(WITHOUT_QUERY_LATENT)
    if model.q_lora_rank is None:
        if depth > deepest:
            raise StemmaError(
                f"llama.cpp reads queries without a latent only in models of {WITHOUT_QUERY_LATENT} layers; "
                f"this one has {depth}, and layers can only be added. Train with a q_lora_rank to export GGUF"
            )
        return min(lite for lite in WITHOUT_QUERY_LATENT if lite >= depth) - depth
    return deepest + 1 - depth if depth in WITHOUT_QUERY_LATENT else 0


def add_model(writer: "GGUFWriter", model: ModelConfig, layers: int) -> None:
    """The shape of the model, in llama.cpp's words."""
    latent, rotary = model.kv_lora_rank, model.qk_rope_head_dim
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(model.max_position_embeddings)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(layers)
    writer.add_leading_dense_block_count(layers)
    writer.add_feed_forward_length(model.ffn_hidden_size)
    writer.add_expert_feed_forward_length(model.ffn_hidden_size)  # there are no experts; it must be said
    writer.add_expert_count(0)
    writer.add_expert_used_count(0)
    writer.add_expert_shared_count(0)
    writer.add_head_count(model.num_attention_heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(model.rms_norm_eps)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_rope_dimension_count(rotary)
    if model.q_lora_rank is not None:
        writer.add_q_lora_rank(model.q_lora_rank)
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + rotary)
    writer.add_value_length(latent)
    writer.add_key_length_mla(model.qk_head_dim)
    writer.add_value_length_mla(model.v_head_dim)


class GGUFTensors:
    """The tensors of the file, in its order; each is read when its turn comes."""

    def __init__(self, weights: HFFolder, extra: int) -> None:
        self.weights, self.model = weights, weights.model
        self.names = [
            name for name in weights if name != "lm_head.weight" or not self.model.tie_word_embeddings
        ]
        shapes = {name: shape for source in self.names for name, shape in self._shapes(source)}
        first = {name.split(".", 2)[2]: shape for name, shape in shapes.items() if name.startswith("blk.0.")}
        self.zeros = {
            f"blk.{number}.{module}": shape
            for number in range(self.model.num_layers, self.model.num_layers + extra)
            for module, shape in first.items()
        }
        self.shapes = shapes | self.zeros

    def __iter__(self) -> Iterator[Tensor]:
        for source in self.names:
            yield from self._parts(source, self.weights[source])
        yield from map(torch.zeros, self.zeros.values())

    def _names(self, source: str) -> list[str]:
        name = source.removesuffix(".weight")
        if name in OUTER:
            return [f"{OUTER[name]}.weight"]
        _, _, number, module = name.split(".", 3)
        modules = ["attn_k_b", "attn_v_b"] if module == KEYS_VALUES else [LAYER[module]]
        return [f"blk.{number}.{module}.weight" for module in modules]

    def _parts(self, source: str, tensor: Tensor) -> list[Tensor]:
        """Of ``[heads * (nope + v), latent]``: ``[heads, latent, nope]`` and ``[heads, v, latent]``."""
        if not source.endswith(f"{KEYS_VALUES}.weight"):
            return [tensor]
        model = self.model
        widths = [model.qk_nope_head_dim, model.v_head_dim]
        keys, values = tensor.unflatten(0, (model.num_attention_heads, -1)).split(widths, dim=1)
        return [keys.transpose(1, 2), values]

    def _shapes(self, source: str) -> list[tuple[str, tuple[int, ...]]]:
        parts = self._parts(source, torch.empty(self.weights.shapes[source], device="meta"))
        return [(name, tuple(part.shape)) for name, part in zip(self._names(source), parts, strict=True)]


def tensor_type(shape: tuple[int, ...], kind: GGUFType) -> torch.dtype:
    """What a tensor is stored as."""
    if len(shape) == 1:
        return torch.float32
    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]


def add_tensor_info(writer: "GGUFWriter", name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Announce a tensor, whose bytes follow later. (numpy, which the writer thinks in, has no bfloat16.)"""
    import numpy as np
    from gguf import GGMLQuantizationType

    raw = {
        torch.float32: GGMLQuantizationType.F32,
        torch.float16: GGMLQuantizationType.F16,
        torch.bfloat16: GGMLQuantizationType.BF16,
    }[dtype]
    in_bytes = [*shape[:-1], shape[-1] * dtype.itemsize]
    writer.add_tensor_info(name, in_bytes, np.dtype(np.uint8), int(np.prod(in_bytes)), raw_dtype=raw)
