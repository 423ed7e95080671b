"""Where an entry comes from: its place, the stage that added it, and what it is made of, down to bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizer.errors import VocabularyError
from tokenizer.merges import pairs
from tokenizer.report.entries import characters, quoted, script
from tokenizer.vocabulary import Entry, Vocabulary


@dataclass(frozen=True)
class Made:
    """An entry and the two it is made of; none for a byte, and for what only a whole pre-token gives."""

    rank: int
    entry: Entry
    parts: tuple["Made", ...] = ()


@dataclass(frozen=True)
class Pedigree:
    """What there is to say about a text as an entry.

    Attributes:
        text: its bytes.
        made: where it is an entry, what it is made of.
        id: its id; None for scaffolds and for what is no entry.
        special: it is a special token, which no joining comes to.
        splits: the ranks of every two earlier entries it could be cut into; joining comes to one of them.
        inside: ranks of the first entries that were built with it.
        becomes: where it is no entry, or has no id, the bytes of the tokens it becomes.
        pruned: the rows of the report that say why it was taken out.
    """

    text: bytes
    made: Made | None = None
    id: int | None = None
    special: bool = False
    splits: tuple[tuple[int, int], ...] = ()
    inside: tuple[int, ...] = ()
    becomes: tuple[bytes, ...] = ()
    pruned: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def facts(self) -> dict[str, str]:
        """Label to value, for people."""
        found = {
            "text": quoted(self.text),
            "bytes": f"{len(self.text)} ({self.text.hex(' ')})",
            "characters": f"{characters(self.text)}, {script(self.text)}",
        }
        if self.made:
            entry = self.made.entry
            found["rank"] = f"{self.made.rank:,}"
            found["id"] = "none: a scaffold" if self.id is None else f"{self.id:,}"
            found["stage"] = entry.stage
            # Counts of weighted words: comparable within a stage.
            found["count"] = f"{entry.count:,} when it was learned" if entry.count else "not recorded"
        elif self.special:
            found["id"] = f"{self.id:,}"
            found["entry"] = "a special token: it was not learned"
        else:
            found["entry"] = "no"
        return found


def pedigree_of(
    vocabulary: Vocabulary,
    text: bytes,
    pruned: Sequence[Mapping[str, Any]] = (),
    specials: Mapping[str, int] | None = None,
    inside: int = 8,
) -> Pedigree:
    """What is known about a text as an entry of a vocabulary.

    Args:
        vocabulary: with its pedigree.
        text: the entry's bytes; at least one.
        pruned: what was taken out, as ``tokenizer.learning.prune.Pruned.row`` writes it.
        specials: ids of the special tokens.
        inside: how many of the entries built with it to name.

    Raises:
        VocabularyError: the text is empty.
    """
    if not text:
        raise VocabularyError("an entry has at least one byte; give the text of a token")
    ranks = {entry.text: rank for rank, entry in enumerate(vocabulary.entries)}
    rows = tuple(row for row in pruned if row["bytes"] == text.hex())
    rank = ranks.get(text)
    special = {name.encode(): index for name, index in (specials or {}).items()}.get(text)
    if rank is None and special is not None:
        return Pedigree(text, id=special, special=True, pruned=rows)
    if rank is None:
        return Pedigree(text, becomes=_becomes(vocabulary, text), pruned=rows)
    made = pairs(vocabulary).tolist()

    def tree(at: int) -> Made:
        left, right = made[at]
        return Made(at, vocabulary.entries[at], () if left < 0 else (tree(left), tree(right)))

    halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
    splits = [(ranks[left], ranks[right]) for left, right in halves if left in ranks and right in ranks]
    used = [at for at, pair in enumerate(made) if rank in pair][:inside]
    index = int(vocabulary.ids[rank])
    return Pedigree(
        text,
        tree(rank),
        None if index < 0 else index,
        splits=tuple(pair for pair in splits if max(pair) < rank),
        inside=tuple(used),
        becomes=_becomes(vocabulary, text) if index < 0 else (),
        pruned=rows,
    )


def text_of(vocabulary: Vocabulary, index: int, specials: Mapping[str, int] | None = None) -> bytes:
    """The bytes of an id.

    Args:
        vocabulary: entries have the first ids.
        index: the id.
        specials: ids of the special tokens.

    Raises:
        VocabularyError: nothing has the id.
    """
    if 0 <= index < len(vocabulary):
        return vocabulary.token_bytes[index]
    for name, special in (specials or {}).items():
        if special == index:
            return name.encode()
    last = max([len(vocabulary) - 1, *(specials or {}).values()])
    raise VocabularyError(f"nothing has the id {index}: ids are 0 to {last}")


def _becomes(vocabulary: Vocabulary, text: bytes) -> tuple[bytes, ...]:
    from tokenizer.encoding.encoder import Encoder

    try:
        ids = Encoder(vocabulary, threads=1).encode(text.decode()).tolist()
    except UnicodeDecodeError:
        return ()  # bytes that no text has
    return tuple(vocabulary.token_bytes[index] for index in ids)
