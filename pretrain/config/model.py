"""The shape of the model."""

import math
from typing import Self

from pydantic import Field, model_validator

from stemma.core.config import Config


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
