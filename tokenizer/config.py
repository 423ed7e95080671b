"""Config of the tokenizer stage. Torch-free and cheap to import."""

from typing import Literal

from pydantic import Field, model_validator

from stemma.core.config import Config

NAMED_SPECIALS = 12
BYTES = 256


class TokenizerConfig(Config):
    """How the vocabulary is built."""

    backend: Literal["bpe", "sentencepiece"] = Field(
        "bpe",
        description="bpe: byte-level, behind the reference's splits; sentencepiece: BPE with byte fallback",
    )
    vocab_size: int = Field(128_256, description="entries in all: bytes, learned entries and special slots")
    special_slots: int = Field(
        256, ge=NAMED_SPECIALS, description="entries at the end of the vocabulary kept for special tokens"
    )
    sample_bytes: int = Field(
        2_000_000_000, ge=1, description="UTF-8 bytes of training documents to learn from, over all domains"
    )
    domain_weights: dict[str, float] = Field(
        default={"web": 0.4, "stem": 0.3, "code": 0.3, "agent": 0.1},
        description="each domain's share of sample_bytes among the domains the corpus has; absent means none",
    )
    min_frequency: int = Field(2, ge=1, description="occurrences a pair needs to be merged")
    seed: int = Field(0, ge=0, description="chooses which documents are sampled")

    @model_validator(mode="after")
    def _check(self) -> "TokenizerConfig":
        smallest = BYTES + self.special_slots + 1
        if self.vocab_size <= smallest:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; {BYTES} bytes, {self.special_slots} special slots "
                f"and room to learn need more than {smallest}"
            )
        weights = self.domain_weights.values()
        if any(weight < 0 for weight in weights) or not sum(weights) > 0:
            raise ValueError(f"domain_weights must be 0 or more, and not all 0: {self.domain_weights}")
        return self

    @property
    def learned_size(self) -> int:
        """Entries before the special slots, bytes included; also the id of ``<|begin_of_text|>``."""
        return self.vocab_size - self.special_slots
