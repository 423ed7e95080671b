"""The model: Megatron-core's ``GPTModel`` with dense multi-head latent attention, built from a
``ModelConfig``.

Initial weights are drawn here and not by Megatron: each tensor comes from a generator seeded with the run's
seed and the tensor's own name, whole, and a rank keeps its part. So they depend on nothing but seed and
shape: not on how many ranks share the model, nor on which device.
"""

import hashlib
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import context, device
from pretrain.config import FP8Config, ModelConfig, Precision
from pretrain.precision import Machine, check_fp8, model_fields
from pretrain.sharding import EMBEDDING, global_name, shard_dimension, tensor_shard, whole_shape
from pretrain.simulated import simulate
from pretrain.topology import Topology

# isort: split
# Megatron is imported after pretrain.device, which prepares it for a CPU.
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.multi_latent_attention import MLASelfAttention, MLASelfAttentionSubmodules
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig

ONE_RANK = Topology()


class CausalAttention(MegatronModule):
    """The ``core_attention`` of the layer spec: Megatron's own asserts on heads of different widths."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **_: object,  # k_channels, v_channels, process groups: the tensors' own shapes say it
    ) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
    ) -> Tensor:
        """Attend causally.

        Args:
            query, key: ``[seq / CP, batch, heads, d_qk]``, in the layout of ``pretrain.context``.
            value: ``[seq / CP, batch, heads, d_v]``.
            attention_mask: where documents begin (``cu_seqlens`` of ``causal_attention``: this model's
                meaning of Megatron's argument), or None for one document per row.

        Returns:
            ``[seq / CP, batch, heads * d_v]``.
        """
        group = parallel_state.get_context_parallel_group()
        keep = self.config.recompute_granularity == "full"  # the backward pass follows at once
        out = context.attention(query, key, value, self.softmax_scale, attention_mask, group, keep)
        return out.flatten(2)


class Norm(torch.nn.RMSNorm):
    """RMSNorm. Sequence-parallel ranks each norm some positions, so the gradients of their weights add up."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object) -> None:
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel  # Megatron adds up what bears this mark


class _SumGradient(torch.autograd.Function):
    """Identity whose gradient is summed over tensor-parallel ranks.

    Megatron's own (``copy_to_tensor_model_parallel_region``) loses the sum when the gradient is not
    contiguous, and the gradient of a slice is not.
    """

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total, group=parallel_state.get_tensor_model_parallel_group())
        return total


class LatentAttention(MLASelfAttention):
    """Megatron's latent attention, with the gradient of the rotary key summed over tensor-parallel ranks.

    All heads share one rotary key, and each rank has some of the heads. Megatron's gather of the down
    projection hands each rank its own heads' gradient only, and training drifts from that of one rank. With
    sequence parallelism each rank gets its positions of latent and rotary key, as Megatron expects of a down
    projection that is not split; it then gathers the positions of both, and adds up their gradients.
    """

    def __init__(self, *args: Any, submodules: MLASelfAttentionSubmodules, **kwargs: Any) -> None:
        # Megatron takes no down projections but of its own classes; a spec of ours has its place afterwards.
        ours = {
            name: spec
            for name in ("linear_q_down_proj", "linear_kv_down_proj")
            if isinstance(spec := getattr(submodules, name), ModuleSpec)
        }
        theirs = replace(submodules, **dict.fromkeys(ours, ColumnParallelLinear))
        super().__init__(*args, submodules=theirs, **kwargs)
        for name, spec in ours.items():
            if hasattr(self, name):  # without a query latent there is no projection to it
                setattr(self, name, self._down_projection(spec, getattr(self, name)))
        if self.config.tensor_model_parallel_size > 1:
            self.linear_kv_down_proj.register_forward_hook(self._join)

    def _down_projection(self, spec: ModuleSpec, theirs: ColumnParallelLinear) -> nn.Module:
        return build_module(
            spec,
            theirs.input_size,
            theirs.output_size,
            config=self.config,
            init_method=self.config.init_method,
            bias=False,
            gather_output=False,
            tp_group=theirs.tp_group,
        )

    def _join(self, _module: object, _inputs: object, output: tuple[Tensor, Tensor | None]) -> Any:
        whole = gather_from_tensor_model_parallel_region(output[0])
        if self.config.sequence_parallel:
            return scatter_to_sequence_parallel_region(whole), output[1]
        widths = [self.config.kv_lora_rank, self.config.qk_pos_emb_head_dim]
        latent, rotary = whole.split(widths, dim=-1)  # the latent's gradient is summed by the up projection
        return torch.cat([latent, _SumGradient.apply(rotary)], -1), output[1]


class LanguageModel(GPTModel):
    """``GPTModel`` that returns its logits ``[batch, seq, vocab / TP]`` in fp32 without Megatron's copy."""

    def _postprocess(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        if not self.post_process:
            return hidden_states
        weight = (
            self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        )
        logits, _bias = self.output_layer(hidden_states, weight=weight)
        return logits.transpose(0, 1).float()

    def set_rope_theta(self, theta: float) -> None:
        """Change the base of the rotary frequencies, which a stage of long context raises."""
        self.config.rotary_base = theta
        for layer in self.decoder.layers:
            rotary = layer.self_attention.rotary_pos_emb
            dims = torch.arange(0, self.config.qk_pos_emb_head_dim, 2, dtype=torch.float32)
            rotary.inv_freq = (1.0 / theta ** (dims / self.config.qk_pos_emb_head_dim)).to(
                rotary.inv_freq.device
            )
            type(rotary).forward.cache_clear()  # Megatron keeps the angles of past lengths


def megatron_config(
    model: ModelConfig,
    precision: Precision = "fp32",
    topology: Topology = ONE_RANK,
    recompute: bool = False,
    fp8: FP8Config | None = None,
) -> MLATransformerConfig:
    """Megatron's config of a model.

    Args:
        model: its shape.
        precision: number format of the matrix products.
        topology: how ranks share it.
        recompute: keep each layer's input only, and compute the rest again in the backward pass.
        fp8: scaling, with precision fp8; None: the defaults.

    Raises:
        StemmaError: fp8 cannot run here.
        TopologyError: the ranks do not divide the model.
    """
    fp8 = fp8 or FP8Config()
    if precision == "fp8":
        check_fp8(model, fp8, topology, Machine.here())
    topology.check(model)
    return MLATransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        ffn_hidden_size=model.ffn_hidden_size,
        q_lora_rank=model.q_lora_rank,
        kv_lora_rank=model.kv_lora_rank,
        qk_head_dim=model.qk_nope_head_dim,
        qk_pos_emb_head_dim=model.qk_rope_head_dim,
        v_head_dim=model.v_head_dim,
        multi_latent_attention=True,
        qk_layernorm=False,  # the spec has these norms; True sums their gradients over ranks once more
        rope_type="rope",
        rotary_base=model.rope_theta,
        normalization="RMSNorm",
        layernorm_epsilon=model.rms_norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=device.ON_CUDA,
        bias_dropout_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        tensor_model_parallel_size=topology.tensor,
        pipeline_model_parallel_size=topology.pipeline,
        context_parallel_size=topology.context,
        sequence_parallel=topology.sequence_parallel,
        recompute_granularity="full" if recompute else None,
        recompute_method="uniform" if recompute else None,
        recompute_num_layers=1 if recompute else None,
        use_cpu_initialization=not device.ON_CUDA,
        perform_initialization=False,  # initialize() does
        calculate_per_token_loss=True,  # gradients are summed over replicas: the loss is divided beforehand
        **model_fields(precision, fp8),
    )


def layer_spec(fp8: bool = False) -> ModuleSpec:
    """Megatron's local layer of dense MLA, with our own core attention.

    Args:
        fp8: take Transformer Engine's linear layers, which compute in fp8 on Hopper. Parameter names stay the
        same.
            This variant has never run: no machine with CUDA was at hand.
    """
    spec = get_gpt_layer_local_spec(multi_latent_attention=True, qk_layernorm=True, normalization="RMSNorm")
    spec.submodules.self_attention.module = LatentAttention
    attention, mlp = spec.submodules.self_attention.submodules, spec.submodules.mlp.submodules
    attention.core_attention = CausalAttention
    attention.q_layernorm = attention.kv_layernorm = Norm
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = Norm
    if fp8:
        from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

        for name in ("q_proj", "q_down_proj", "q_up_proj", "kv_down_proj", "kv_up_proj"):
            setattr(attention, f"linear_{name}", TEColumnParallelLinear)
        attention.linear_proj = mlp.linear_fc2 = TERowParallelLinear
        mlp.linear_fc1 = TEColumnParallelLinear
    return spec


def layer_specs(config: MLATransformerConfig, simulated: FP8Config | None = None) -> list[ModuleSpec]:
    """The layers of this pipeline stage; some may stay in bf16 where fp8 is simulated."""
    count = config.num_layers // config.pipeline_model_parallel_size
    plain = layer_spec(fp8=config.fp8 is not None)
    if simulated is None:
        return [plain] * count
    first = parallel_state.get_pipeline_model_parallel_rank() * count
    in_fp8 = range(
        simulated.num_layers_at_start_in_bf16, config.num_layers - simulated.num_layers_at_end_in_bf16
    )
    quantised = simulate(layer_spec(), simulated)
    return [quantised if layer in in_fp8 else plain for layer in range(first, first + count)]


def build_model(
    model: ModelConfig, config: MLATransformerConfig, simulated: FP8Config | None = None
) -> LanguageModel:
    """This rank's part of the model, with memory in place of weights; ``initialize`` fills it.

    Needs Megatron's parallel state. Inside ``torch.device("meta")`` it allocates nothing, on a CPU.

    Args:
        model: its shape.
        config: from ``megatron_config``.
        simulated: compute linear layers as if in fp8.
    """
    layers = layer_specs(config, simulated)
    with device.cuda_answered():
        return LanguageModel(
            config,
            TransformerBlockSubmodules(layers, layer_norm=Norm),
            vocab_size=model.vocab_size,
            max_sequence_length=model.max_position_embeddings,
            pre_process=parallel_state.is_pipeline_first_stage(),
            post_process=parallel_state.is_pipeline_last_stage(),
            share_embeddings_and_output_weights=model.tie_word_embeddings,
            position_embedding_type="rope",
        )


@torch.no_grad()
def initialize(module: LanguageModel, model: ModelConfig, seed: int) -> None:
    """Draw the initial weights: normal for linear layers and embeddings, ones for norms.

    The same seed gives the same weights for every split over ranks.
    """
    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    first_layer = module.decoder.layers[0].layer_number - 1
    for local_name, parameter in module.named_parameters():
        name = global_name(local_name, first_layer, model.tie_word_embeddings)
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        std = model.embedding_std if name == EMBEDDING else model.linear_std
        if shard_dimension(name) is not None and not hasattr(parameter, "tensor_model_parallel"):
            # Megatron marks split parameters when it draws them itself; the norm of the gradient counts by
            # this mark.
            set_tensor_model_parallel_attributes(parameter, True, shard_dimension(name), 1)
        key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        whole = torch.empty(whole_shape(name, parameter.shape, size)).normal_(0.0, std, generator=generator)
        parameter.copy_(tensor_shard(name, whole, rank, size))
