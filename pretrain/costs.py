"""What training a model costs, by arithmetic: floating-point operations and bytes. No torch.

Every formula follows the tensors of the MLA layer this repository trains, and names its source. The tests
hold them against counted parameters, ``torch.utils.flop_counter`` and the tensors autograd keeps in a real
layer.

Letters: ``h`` hidden size, ``n`` heads, ``q``/``c`` query and key/value latents, ``d_n``/``d_r``/``d_v`` head
dimensions (without rotary position, with it, values), ``f`` SwiGLU width, ``V`` vocabulary, ``s`` sequence
length.
"""

from dataclasses import dataclass
from typing import NamedTuple

from pretrain.config import ModelConfig, Precision
from pretrain.topology import Topology

GIB = 1 << 30


class Device(NamedTuple):
    """One GPU, by its vendor's data sheet: SXM/OAM form, in a machine of eight with a network card for each.

    Attributes:
        flops: dense (not sparse) matrix throughput in bf16, FLOP/s.
        memory: bytes.
        link: to the other GPUs of its machine, bytes/s in one direction.
        network: to other machines, bytes/s in one direction.
    """

    flops: float
    memory: int
    link: float
    network: float


DEVICES = {
    "a100": Device(312e12, 80 * GIB, 300e9, 25e9),
    "h100": Device(989e12, 80 * GIB, 450e9, 50e9),
    "h200": Device(989e12, 141 * GIB, 450e9, 50e9),
    "b200": Device(2250e12, 180 * GIB, 900e9, 50e9),
}


def forward_flops(model: ModelConfig, sequence_length: int, causal: bool = True) -> int:
    """Operations of one forward pass per token: matrix products only, a multiply-add counts as two.

    Weights: ``2 * (h q + q n (d_n + d_r) + h (c + d_r) + c n (d_n + d_v) + n d_v h + 3 h f)`` per layer, and
    ``2 h V`` for the output layer. Attention: each token meets ``(s + 1) / 2`` keys on average under the
    causal mask (all ``s`` without it), ``2 n (d_n + d_r)`` operations for the score and ``2 n d_v`` for the
    mixture of each. The factors of 2 per weight are those of Kaplan et al. 2020 (arXiv 2001.08361, table 1);
    norms, rotary position and softmax are left out, as there and in ``torch.utils.flop_counter``.

    Args:
        sequence_length: tokens that attend to each other; masked, packed documents cost less.
        causal: false counts the full square, as an implementation without a causal kernel computes it.

    Returns:
        FLOPs per token, rounded to a whole number.
    """
    heads, hidden = model.num_attention_heads, model.hidden_size
    query = heads * model.qk_head_dim
    weights = hidden * query
    if model.q_lora_rank is not None:
        weights = hidden * model.q_lora_rank + model.q_lora_rank * query
    weights += hidden * (model.kv_lora_rank + model.qk_rope_head_dim)
    weights += model.kv_lora_rank * heads * (model.qk_nope_head_dim + model.v_head_dim)
    weights += heads * model.v_head_dim * hidden + 3 * hidden * model.ffn_hidden_size
    twice_keys = sequence_length + 1 if causal else 2 * sequence_length
    attention = heads * (model.qk_head_dim + model.v_head_dim) * twice_keys
    return model.num_layers * (2 * weights + attention) + 2 * hidden * model.vocab_size


def training_flops(model: ModelConfig, sequence_length: int, causal: bool = True) -> int:
    """Operations of forward and backward per token: three forward passes, as every product has two gradients.

    Recomputation is not counted: these are *model* FLOPs, the numerator of MFU (PaLM, arXiv 2204.02311,
    appendix B).
    """
    return 3 * forward_flops(model, sequence_length, causal)


def rank_parameters(model: ModelConfig, topology: Topology, last: bool) -> int:
    """Parameters one rank of the first (or the last) pipeline stage holds.

    Every matrix is split over the tensor-parallel ranks, norms are copies. With tied embeddings and more than
    one pipeline stage the last stage keeps a copy of the table for the output layer, as Megatron does.
    """
    norms = 2 * model.hidden_size + (model.q_lora_rank or 0) + model.kv_lora_rank
    layer = (model.layer_parameters - norms) // topology.tensor + norms
    table = model.vocab_size * model.hidden_size // topology.tensor
    alone = topology.pipeline == 1
    tables = (not last or alone) + (last and not (alone and model.tie_word_embeddings))
    return model.num_layers // topology.pipeline * layer + tables * table + (model.hidden_size if last else 0)


def state_bytes_per_parameter(precision: Precision, shards: int) -> tuple[float, float, float]:
    """Bytes per parameter of (weights, gradients, optimizer).

    bf16 and fp16: 2-byte weights, fp32 gradients (accumulated over micro batches), and an fp32 main copy with
    Adam's two moments, sharded: ``6 + 12 / shards`` in all. fp32 weights are their own main copy: ``8 + 8 /
    shards``. These are the figures of Megatron-Core's page on its distributed optimizer. FP8 keeps bf16
    weights and casts as it goes.
    """
    if precision == "fp32":
        return 4.0, 4.0, 8.0 / shards
    return 2.0, 4.0, 12.0 / shards


def layer_activation_bytes(model: ModelConfig, topology: Topology, precision: Precision) -> float:
    """Bytes one layer keeps for its backward pass, per token, with fused norms, SwiGLU and attention.

    After Korthikanti et al. 2022 (arXiv 2205.05198, section 4), written out for MLA. Whole on every
    tensor-parallel rank: the inputs of both norms and what they feed (``4 h``), the latents before and after
    theirs (``2 q + 2 c``) and the shared rotary key (``d_r``); sequence parallelism splits all but the
    latents. Split: queries, keys, and values and output that the engine pads to the keys' width for the
    kernel (``4 n (d_n + d_r)``, of which context-parallel ranks keep their values unpadded), the output
    without padding (``n d_v``), the SwiGLU's input and output (``3 f``), and the kernel's
    log-sum-exp (4 bytes per head).
    Without the fused kernels, as on a CPU, each norm keeps one more copy of what it returns and the SwiGLU
    ``2 f`` more. Allocator slack and communication buffers are not in it.
    """
    size = 4 if precision == "fp32" else 2
    heads = model.num_attention_heads
    between = topology.tensor if topology.sequence_parallel else 1
    whole = 4 * model.hidden_size / between
    whole += 2 * (model.q_lora_rank or 0) + 2 * model.kv_lora_rank + model.qk_rope_head_dim
    values = model.qk_head_dim if topology.context == 1 else model.v_head_dim
    split = heads * (3 * model.qk_head_dim + values + model.v_head_dim) + 3 * model.ffn_hidden_size
    return size * (whole + split / topology.tensor) + 4 * heads / topology.tensor


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest rank."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits


def memory(
    model: ModelConfig,
    topology: Topology,
    precision: Precision,
    sequence_length: int,
    micro_batch_size: int,
    recompute: bool,
) -> Memory:
    """Memory of the fullest rank, in bytes.

    Under the 1F1B schedule the first pipeline stage holds the activations of as many micro batches as there
    are stages, the last of one, plus the logits (Narayanan et al. 2021, arXiv 2104.04473, section 2.2);
    whichever needs more is returned. Logits take 12 bytes each: in fp32 values, softmax and gradient;
    otherwise values in 2 bytes and in 4, the softmax in 4, and the gradient in 2.

    Args:
        sequence_length: tokens per sequence, split over ``topology.context`` ranks.
        micro_batch_size: sequences per forward pass.
        recompute: keep only each layer's input and compute the rest again in the backward pass.

    Raises:
        TopologyError: the model does not divide.
    """
    topology.check(model)
    size = 4 if precision == "fp32" else 2
    tokens = micro_batch_size * sequence_length / topology.context
    one_layer = layer_activation_bytes(model, topology, precision)
    layers = model.num_layers // topology.pipeline
    weights, gradients, optimizer = state_bytes_per_parameter(precision, topology.data * topology.context)

    between = topology.tensor if topology.sequence_parallel else 1
    layer_input = model.hidden_size * size / between
    gathered = 0.0  # keys and padded values of all positions, of one layer at a time
    if topology.context > 1:
        whole_rows = topology.context * 2 * model.qk_head_dim
        gathered = size * model.num_attention_heads * whole_rows / topology.tensor

    def rank(last: bool) -> Memory:
        held = 1 if last else topology.pipeline
        kept = held * layers * layer_input + one_layer if recompute else held * layers * one_layer
        kept += gathered
        count = rank_parameters(model, topology, last)
        logits = 12 * model.vocab_size / topology.tensor if last else 0
        return Memory(count * weights, count * gradients, count * optimizer, tokens * kept, tokens * logits)

    if topology.pipeline == 1:
        return rank(last=True)
    return max(rank(last=False), rank(last=True), key=lambda found: found.total)


def checkpoint_bytes(model: ModelConfig, precision: Precision) -> int:
    """Bytes of one checkpoint: weights and optimizer state, whatever the number of ranks that write it.

    fp32: weights and two moments. Otherwise 2-byte weights, their fp32 main copy, and two moments. Names,
    indexes and the loop's own state are some kilobytes more.
    """
    return model.parameters * (12 if precision == "fp32" else 14)
