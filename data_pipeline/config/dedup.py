"""Config models of deduplication."""

from typing import Literal

from pydantic import Field, field_validator

from data_pipeline.config.sources import Domain, SourceId
from stemma.core.config import Config


class LinesConfig(Config):
    """Removal of boilerplate: lines that many documents of one source have. Code is never touched."""

    domains: tuple[Literal["web", "stem", "agent"], ...] = Field(
        ("web",), min_length=1, description="domains whose documents lose such lines"
    )
    max_documents: int = Field(
        20, ge=1, description="documents of a source that may have a line; from one more on it is removed"
    )
    min_line: int = Field(30, ge=1, description="characters of a line, spaces folded; shorter lines are kept")
    min_text: int = Field(
        200,
        ge=0,
        description="characters; a document that lost lines and has fewer left, or none, is rejected",
    )


class SubstringConfig(Config):
    """Removal of word sequences that an earlier document, or the same one before, has word for word."""

    words: int = Field(100, ge=4, description="length of the shortest sequence that counts as repeated")
    max_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of a document's words in such sequences above which it is rejected; one of which "
        "nothing would be left is, too",
    )
    domains: tuple[Domain, ...] = Field(
        ("web", "stem", "agent"), min_length=1, description="domains whose documents are compared"
    )


class DedupConfig(Config):
    """Exact deduplication always runs; MinHash finds near-duplicates; lines and substrings are optional.

    A pair of Jaccard similarity s shares a band with probability 1 - (1 - s^hashes_per_bucket)^num_buckets.
    """

    n_grams: int = Field(5, ge=1, description="words per shingle; a shorter text is one shingle")
    num_buckets: int = Field(14, ge=1, description="bands; more find more distant pairs")
    hashes_per_bucket: int = Field(8, ge=1, description="hashes per band; more ask for closer pairs")
    threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="least Jaccard similarity, estimated from all hashes, of a pair that shares a band; "
        "0 takes every such pair, as FineWeb does",
    )
    prefer: tuple[SourceId, ...] = Field(
        (), max_length=255, description="sources whose copy is kept rather than another's, best first"
    )
    lines: LinesConfig | None = Field(None, description="removal of boilerplate lines; null leaves it out")
    substring: SubstringConfig | None = Field(
        None, description="removal of repeated word sequences; null leaves it out"
    )

    @field_validator("prefer")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a source stands in the order of preference once")
        return value
