"""The table of sources, ``sources.yaml``: which texts, from where, on which side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

MEGABYTES = 8.0
WORD_LISTS = ("wordfreq", "spacy", "wordsegment", "jieba")


@dataclass(frozen=True)
class Source:
    """Some files of a pinned archive.

    Attributes:
        use: ``learn``; or held out, so that no vocabulary sees it: ``measure``, by which recipes are
            chosen, or ``test``, which no choice is made by.
        origin: registry, package, version, archive, SHA-256; or ``python`` alone: the running interpreter's
            standard library.
        format: how its files become texts; see ``corpus.READ``.
        fields: keys of the text, for ``jsonl``.
        megabytes: of text, at most.
    """

    name: str
    use: Literal["learn", "measure", "test"]
    domain: str
    language: str
    origin: tuple[str, ...]
    members: tuple[str, ...]
    format: str
    fields: tuple[str, ...]
    megabytes: float

    @property
    def is_words(self) -> bool:
        """Whether it lists words with their frequencies, and has no text."""
        return self.format in WORD_LISTS


def sources() -> list[Source]:
    """All sources, in the order of the table."""
    table: dict[str, dict[str, Any]] = yaml.safe_load(
        Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8")
    )
    return [
        Source(
            name,
            row["use"],
            row["domain"],
            row.get("language", "en"),
            tuple(row["from"]),
            tuple(row["members"]),
            row["format"],
            tuple(row.get("fields", ())),
            row.get("megabytes", MEGABYTES),
        )
        for name, row in table.items()
    ]
