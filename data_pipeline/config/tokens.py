"""Config model of tokenized shards."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from stemma.core.config import Config, execution_field


class TokensConfig(Config):
    """Tokenized shards."""

    seed: int = Field(1234, ge=0, description="seed of the order in which a source's documents are written")
    sequence_chunk: int = Field(
        ge=1,
        description="tokens of a super-chunk, which the curriculum shuffles; all sequence lengths divide it",
    )
    packing: Literal["concat", "best_fit"] = Field(
        "concat",
        description="order of a source's training text: document after document, or documents put together "
        "that fill a window, so that few are cut. Both hold the same tokens, without padding",
    )
    packing_length: int | None = Field(
        None,
        ge=1,
        description="tokens of a window that packing fills and that cut documents are counted for: best the "
        "sequence length most tokens are trained at; divides `sequence_chunk`; null: that",
    )
    tiers: tuple[float, ...] = Field(
        (),
        description="rising thresholds on a document's quality (0 to 1), which divide every source that has "
        "scores into tiers: `<source>.t0` holds what lies below the first",
    )
    batch_documents: int = execution_field(
        512, ge=1, description="documents a worker encodes at a time; what a killed run repeats at most"
    )

    @property
    def window(self) -> int:
        """Tokens of a window that packing fills."""
        return self.packing_length or self.sequence_chunk

    @model_validator(mode="after")
    def _windows_and_tiers(self) -> "TokensConfig":
        if self.sequence_chunk % self.window:
            raise ValueError(
                f"packing_length {self.window} does not divide sequence_chunk {self.sequence_chunk}; windows "
                "would be cut where a super-chunk ends"
            )
        if not all(0 < threshold < 1 for threshold in self.tiers):
            raise ValueError(f"tiers are thresholds between 0 and 1, both excluded; found {self.tiers}")
        if any(later <= earlier for earlier, later in pairwise(self.tiers)):
            raise ValueError(f"tiers must rise; found {self.tiers}")
        return self
