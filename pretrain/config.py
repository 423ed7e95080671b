"""Config models of the pretraining room: the shape of the model and how one stage trains it.

Torch-free: ``stemma plan`` and the profile loader read these in milliseconds. How many ranks share the work
is *not* here: that is ``stemma.core.stage.Execution``, which never changes an artifact's fingerprint.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from stemma.core.config import Config, execution_field

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
ScheduleShape = Literal["constant", "linear", "cosine", "wsd"]


class ModelConfig(Config):
    """A dense transformer with multi-head latent attention (MLA), SwiGLU, RMSNorm: transformers' ``youtu``.

    Head dimensions default to the reference model's. Sizes have no default: each profile means another model.
    """

    vocab_size: int = Field(gt=0, description="entries of the embedding table, special tokens included")
    hidden_size: int = Field(gt=0, description="width of the residual stream")
    num_layers: int = Field(gt=0, description="transformer layers")
    num_attention_heads: int = Field(gt=0, description="query heads; MLA has as many key/value heads")
    ffn_hidden_size: int = Field(gt=0, description="width of the SwiGLU's two halves, each")
    q_lora_rank: int | None = Field(
        gt=0, description="width of the query latent; null projects queries directly"
    )
    kv_lora_rank: int = Field(
        gt=0, description="width of the key/value latent, which is what a KV cache stores"
    )
    qk_nope_head_dim: int = Field(
        128, gt=0, description="per head, query/key dimensions without rotary position"
    )
    qk_rope_head_dim: int = Field(64, gt=0, description="per head, query/key dimensions with rotary position")
    v_head_dim: int = Field(128, gt=0, description="per head, value dimensions")
    max_position_embeddings: int = Field(
        131_072, gt=0, description="longest sequence the export declares, tokens"
    )
    rope_theta: float = Field(1_600_000.0, gt=0, description="base of the rotary frequencies")
    rms_norm_eps: float = Field(1e-6, gt=0, description="added to the mean square inside RMSNorm")
    tie_word_embeddings: bool = Field(True, description="the output layer is the embedding table")
    initializer_range: float | None = Field(
        None,
        gt=0,
        description="standard deviation of initial linear weights; null: sqrt(2 / (5 * hidden_size))",
    )
    embedding_initializer_range: float | None = Field(
        None,
        gt=0,
        description="standard deviation of initial embeddings; null: twice that of the linear weights",
    )

    @model_validator(mode="after")
    def _rotary_pairs(self) -> Self:
        if self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim is {self.qk_rope_head_dim}; rotary position turns pairs of dimensions, "
                "give an even number"
            )
        return self

    @property
    def qk_head_dim(self) -> int:
        """Dimensions of one query or key head: those without and those with rotary position."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def linear_std(self) -> float:
        """Standard deviation of initial linear weights: small init (Nguyen and Salazar 2019)."""
        return (
            math.sqrt(2.0 / (5.0 * self.hidden_size))
            if self.initializer_range is None
            else self.initializer_range
        )

    @property
    def embedding_std(self) -> float:
        """Standard deviation of initial embeddings."""
        given = self.embedding_initializer_range
        return 2.0 * self.linear_std if given is None else given

    @property
    def layer_parameters(self) -> int:
        """Parameters of one transformer layer."""
        hidden, heads = self.hidden_size, self.num_attention_heads
        query = heads * self.qk_head_dim
        if self.q_lora_rank is None:
            queries = hidden * query
        else:
            queries = hidden * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * query
        keys_values = (
            hidden * (self.kv_lora_rank + self.qk_rope_head_dim)
            + self.kv_lora_rank
            + self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        )
        output = heads * self.v_head_dim * hidden
        mlp = 3 * hidden * self.ffn_hidden_size
        return queries + keys_values + output + mlp + 2 * hidden

    @property
    def parameters(self) -> int:
        """Exact number of parameters; a tied embedding counts once."""
        tables = 1 if self.tie_word_embeddings else 2
        return (
            tables * self.vocab_size * self.hidden_size
            + self.num_layers * self.layer_parameters
            + self.hidden_size
        )


class ScheduleConfig(Config):
    """Learning rate over the steps of one stage; ``pretrain.schedule.learning_rate`` is the function."""

    shape: ScheduleShape = Field(
        "constant",
        description="after the warm-up: stay, fall in a line or a cosine, or stay and then fall (wsd)",
    )
    peak_lr: float = Field(gt=0, description="learning rate at the end of the warm-up")
    start_lr: float = Field(0.0, ge=0, description="learning rate the warm-up starts from")
    end_lr: float = Field(0.0, ge=0, description="learning rate of the last step, for shapes that fall")
    warmup_steps: int = Field(0, ge=0, description="steps from start_lr to peak_lr")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="wsd only: share of the steps after the warm-up over which it falls"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("start_lr", "end_lr"):
            if getattr(self, name) > self.peak_lr:
                raise ValueError(f"{name} is {getattr(self, name)}, above peak_lr {self.peak_lr}")
        return self


class OptimizerConfig(Config):
    """AdamW. Norms are not decayed."""

    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    adam_eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay, times the learning rate each step")
    clip_grad: float = Field(
        1.0, ge=0, description="largest norm of the gradient over all parameters; 0: no clipping"
    )


class TrainingConfig(Config):
    """How one stage trains. The number of steps is not here: the plan (or the objective) fixes it."""

    seed: int = Field(1234, ge=0, lt=2**31, description="seed of the initial weights")
    micro_batch_size: int = execution_field(
        8, gt=0, description="sequences in one forward pass, at the base length"
    )
    global_batch_size: int = Field(
        gt=0, description="sequences in one optimizer step, at the stage's base length"
    )
    schedule: ScheduleConfig = Field(description="learning rate over the stage")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW and clipping")
    precision: Precision = Field(
        "fp32", description="number format of the matrix products; fp8 needs a Hopper GPU"
    )
    rope_theta: float | None = Field(
        None,
        gt=0,
        description="base of the rotary frequencies; null: that of the stage before, at first the model's",
    )
    carry_optimizer: bool = Field(
        True, description="start from the moments of the stage before; false: from zero"
    )
    validation_tokens: int = Field(
        16_384, gt=0, description="tokens per domain that bits per byte are measured on before and after"
    )
    validation_length: int = Field(
        256,
        gt=0,
        description="positions of a validation window; the same in all stages, so that their figures compare",
    )
    checkpoint_every: int = execution_field(50, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = execution_field(2, ge=1, description="checkpoints kept while the stage trains")

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        return self


class PretrainConfig(Config):
    """One pretraining stage: which model, trained how."""

    model: ModelConfig = Field(description="the model's shape")
    training: TrainingConfig = Field(description="how this stage trains it")
