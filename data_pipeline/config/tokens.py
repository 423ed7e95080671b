"""Config model of tokenized shards."""

from pydantic import Field

from stemma.core.config import Config, execution_field


class TokensConfig(Config):
    """Tokenized shards."""

    seed: int = Field(1234, ge=0, description="seed of the order in which a source's documents are written")
    sequence_chunk: int = Field(
        ge=1,
        description="tokens of a super-chunk, which the curriculum shuffles; all sequence lengths divide it",
    )
    batch_documents: int = execution_field(
        64, ge=1, description="documents a worker encodes at a time; what a killed run repeats at most"
    )
