"""GGUF export: one file that llama.cpp runs, weights and tokenizer.

llama.cpp computes dense MLA as ``deepseek2`` with every layer dense. It attends in the latent space (one
key/value head of ``kv_lora_rank + qk_rope_head_dim``), so the key's and the value's up projections are stored
apart, the key's transposed. Rotary pairs are interleaved there as here.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pretrain.config import ModelConfig
from pretrain.convert import hf_shapes
from pretrain.convert.source import Weights, hf_order, hf_tensors
from pretrain.gguf.tokenizer import add_tokenizer
from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "deepseek2"
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


def write_gguf(
    weights: Weights, target: Path, dtype: torch.dtype | None = None, tokenizer: Path | None = None
) -> int:
    """Convert a folder, tensor by tensor.

    Args:
        weights: of ``open_weights``.
        target: the file; replaced in one go when it is complete.
        dtype: of the matrices; None: as they are. Vectors (norms) are fp32 always, as llama.cpp wants them.
        tokenizer: folder with the tokenizer; None: the weights' own.

    Returns:
        Layers of zeros that were appended: they add nothing to the residual stream, and bring the model to a
        depth at which llama.cpp reads queries as this model has them.

    Raises:
        StemmaError: llama.cpp cannot run such a model, or would cut text otherwise than the tokenizer does.
    """
    from gguf import GGUFWriter

    extra = padding_layers(weights.model)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    writer = GGUFWriter(temporary, ARCHITECTURE)
    try:
        add_model(writer, weights.model, weights.model.num_layers + extra, weights.rope_theta)
        add_tokenizer(writer, tokenizer or weights.folder, weights.model.vocab_size)
        tensors = GGUFTensors(weights, extra)
        for name, shape in tensors.shapes.items():
            add_tensor_info(writer, name, shape, stored_dtype(shape, dtype or weights.dtype))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            values = tensor.to(stored_dtype(tensor.shape, dtype or weights.dtype)).contiguous()
            writer.write_tensor_data(values.view(torch.uint8).numpy())
        writer.close()
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return extra


def padding_layers(model: ModelConfig) -> int:
    """Layers of zeros to append so that llama.cpp takes the queries for what they are.

    Raises:
        StemmaError: queries are direct, and the model is deeper than any that llama.cpp reads so.
    """
    depth, direct = model.num_layers, model.q_lora_rank is None
    for layers in range(depth, max(depth, 48) + 2):
        if reads_direct_queries(layers, model.vocab_size) == direct:
            return layers - depth
    raise StemmaError(
        f"llama.cpp reads queries without a latent in models of 26 or 27 layers; this one has {depth}, and "
        "layers can only be added. Train with a q_lora_rank to export GGUF"
    )


def reads_direct_queries(layers: int, vocabulary: int) -> bool:
    """Whether llama.cpp takes a ``deepseek2`` of this size for one without a query latent.

    It knows them by the sizes of published models: DeepSeek-V2-Lite, GigaChat 3 and Kanana 2.
    """
    return layers in (26, 27) or (layers == 48 and vocabulary == 128_256)


def add_model(writer: "GGUFWriter", model: ModelConfig, layers: int, rope_theta: float) -> None:
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
    writer.add_rope_freq_base(rope_theta)
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

    def __init__(self, weights: Weights, extra: int) -> None:
        self.weights, self.model = weights, weights.model
        whole = hf_shapes(self.model)
        self.shapes = {
            name: tuple(part.shape)
            for source in hf_order(weights)
            for name, part in self._parts(source, torch.empty(whole[source], device="meta"))
        }
        first = {
            name.split(".", 2)[2]: shape for name, shape in self.shapes.items() if name.startswith("blk.0.")
        }
        self.zeros = {
            f"blk.{number}.{module}": shape
            for number in range(self.model.num_layers, self.model.num_layers + extra)
            for module, shape in first.items()
        }
        self.shapes |= self.zeros

    def __iter__(self) -> Iterator[Tensor]:
        for source, tensor in hf_tensors(self.weights):
            for _name, part in self._parts(source, tensor):
                yield part
        yield from map(torch.zeros, self.zeros.values())

    def _parts(self, source: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        """llama.cpp's tensors of one of transformers'."""
        name = source.removesuffix(".weight")
        if name in OUTER:
            return [(f"{OUTER[name]}.weight", tensor)]
        _, _, number, module = name.split(".", 3)
        if module != KEYS_VALUES:
            return [(f"blk.{number}.{LAYER[module]}.weight", tensor)]
        heads, widths = self.model.num_attention_heads, [self.model.qk_nope_head_dim, self.model.v_head_dim]
        keys, values = tensor.unflatten(0, (heads, -1)).split(widths, dim=1)  # [heads, width, latent]
        return [
            (f"blk.{number}.attn_k_b.weight", keys.transpose(1, 2)),
            (f"blk.{number}.attn_v_b.weight", values),
        ]


def stored_dtype(shape: tuple[int, ...], matrices: torch.dtype) -> torch.dtype:
    """What a tensor is stored as."""
    return torch.float32 if len(shape) == 1 else matrices


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
