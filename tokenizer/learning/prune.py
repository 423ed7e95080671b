"""Take entries out again: those no text can produce, and those nobody wants.

A vocabulary begun from a published one brings what that one was learned on; o200k's Chinese is known for the
phrases of betting and film sites. What counts as pollution is written down in ``pollution.yaml``.

What another entry is built from stays, however it looks, so every entry that is left is joined as before
(``tokenizer.learning.reach``).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import regex
import yaml
from numpy.typing import NDArray

from tokenizer.config import BYTES, Prune
from tokenizer.encoding.ranks import encode_words, ranks_of
from tokenizer.encoding.scaffolds import expansions
from tokenizer.learning.reach import fit, is_text, whole, with_parts
from tokenizer.learning.words import Words
from tokenizer.merges import pairs
from tokenizer.splitting.scan import cut
from tokenizer.vocabulary import Vocabulary

_CJK = regex.compile(r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]")


@dataclass(frozen=True)
class Pruned:
    """An entry that was taken out, and why.

    Attributes:
        text: its bytes.
        stage: which stage had added it.
        rule: ``unreachable``, ``addresses``, ``spam`` or ``duplicates``.
        evidence: what the rule found.
        count: how often it occurred in the words, in occurrences.
        example: the most frequent word it occurred in; empty if there is none.
        twin: the frequent entry of the same letters; empty for other rules.
        becomes: what its text is encoded as now.
    """

    text: bytes
    stage: str
    rule: str
    evidence: str
    count: float
    example: bytes
    twin: bytes
    becomes: tuple[bytes, ...]

    def row(self) -> dict[str, Any]:
        """For reports: entries as text, ``\\xNN`` where they are no characters; ``bytes`` in hexadecimal."""
        shown = {
            name: getattr(self, name).decode("utf-8", "backslashreplace") for name in ("example", "twin")
        }
        return {
            "entry": self.text.decode("utf-8", "backslashreplace"),
            "bytes": self.text.hex(),
            "stage": self.stage,
            "rule": self.rule,
            "evidence": self.evidence,
            "count": round(self.count, 3),
            **shown,
            "becomes": [piece.decode("utf-8", "backslashreplace") for piece in self.becomes],
        }


@dataclass(frozen=True)
class _Suspect:
    rule: str
    evidence: str
    twin: bytes = b""


def prune(vocabulary: Vocabulary, words: Words, rules: Prune) -> tuple[Vocabulary, list[Pruned]]:
    """A vocabulary without polluted entries, and what was taken out, in rank order.

    Bytes stay, and so does whatever a remaining entry is built from. Every entry left can be produced by some
    text if it could before, and entries that are not taken out keep their order and are joined as before.

    Args:
        vocabulary: what to look through. Scaffolds have no id to save; only unreachable ones go.
        words: what entries are counted on: rare and frequent are meant in this text.
        rules: which rules to apply; the first that an entry breaks is reported.
    """
    if not any(rules.model_dump().values()):
        return vocabulary, []
    made = pairs(vocabulary)
    symbols, ends = encode_words(ranks_of(vocabulary.texts), words.data, words.offsets)
    times = np.repeat(words.counts, np.diff(ends))
    used = np.zeros(len(vocabulary.entries), np.int64)
    np.add.at(used, symbols, times)

    suspects: dict[int, _Suspect] = {}
    if rules.unreachable:
        suspects |= dict(_unreachable(vocabulary, made))
    named = np.flatnonzero(~vocabulary.scaffolds)[BYTES:].tolist()
    for rule in ("addresses", "spam"):
        if getattr(rules, rule):
            found = _polluted(vocabulary, named, rule)
            suspects = dict(found) | suspects
    if rules.duplicates:
        clean = [rank for rank in named if rank not in suspects]
        found = _duplicates(vocabulary, clean, used, words.scale)
        suspects = dict(found) | suspects

    left = [rank for rank in range(len(vocabulary.entries)) if rank not in suspects]
    needed = with_parts(left, made.tolist())
    gone = sorted(suspects.keys() - needed)
    taken = set(gone)
    kept = Vocabulary(tuple(entry for rank, entry in enumerate(vocabulary.entries) if rank not in taken))
    examples = _examples(gone, symbols, ends, words)
    becomes = _encoded([vocabulary.texts[rank] for rank in gone], kept)
    return kept, [
        Pruned(
            vocabulary.texts[rank],
            vocabulary.entries[rank].stage,
            suspects[rank].rule,
            suspects[rank].evidence,
            int(used[rank]) / words.scale,
            examples.get(rank, b""),
            suspects[rank].twin,
            pieces,
        )
        for rank, pieces in zip(gone, becomes, strict=True)
    ]


def _unreachable(vocabulary: Vocabulary, made: NDArray[np.int32]) -> Iterator[tuple[int, _Suspect]]:
    texts = vocabulary.texts[BYTES:]
    alone, joined = whole(texts), made[BYTES:, 0] >= 0
    fitting = fit(texts)
    for index in np.flatnonzero(~alone & ~(fitting & joined)).tolist():
        cause = "joining comes to something else" if fitting[index] else "the pre-tokenizer always cuts it"
        yield BYTES + index, _Suspect("unreachable", cause)


def _polluted(vocabulary: Vocabulary, named: list[int], rule: str) -> Iterator[tuple[int, _Suspect]]:
    patterns = [
        (str(item["about"]), regex.compile(item["pattern"], regex.VERSION1), int(item.get("least", 0)))
        for item in pollution()[rule]
    ]
    for rank in named:
        text = vocabulary.texts[rank].decode("utf-8", "ignore")
        characters = 0 if text.isascii() else len(_CJK.findall(text))
        for about, pattern, least in patterns:
            if characters >= least and pattern.search(text):
                yield rank, _Suspect(rule, about)
                break


def _duplicates(
    vocabulary: Vocabulary, named: list[int], used: NDArray[np.int64], once: int
) -> Iterator[tuple[int, _Suspect]]:
    ratio = int(pollution()["duplicates"]["ratio"])
    same: dict[str, list[int]] = {}
    for rank in named:
        try:
            letters = vocabulary.texts[rank].decode().removeprefix(" ").casefold()
        except UnicodeDecodeError:
            continue
        if letters.isalpha():
            same.setdefault(letters, []).append(rank)
    for group in same.values():
        twin = max(group, key=lambda rank: (used[rank], -rank))
        for rank in group:
            # What never occurs counts as once: nothing is known to be rarer than the text is long.
            if max(used[rank], once) * ratio <= used[twin]:
                evidence = f"its twin occurs {used[twin] // once:,} times"
                yield rank, _Suspect("duplicates", evidence, vocabulary.texts[twin])


def _examples(
    gone: list[int], symbols: NDArray[np.int32], ends: NDArray[np.int64], words: Words
) -> dict[int, bytes]:
    """The most frequent word that has each rank; the first in order of bytes where two are equal."""
    places = np.flatnonzero(np.isin(symbols, gone))
    word = np.searchsorted(ends, places, side="right") - 1
    rank = symbols[places]
    order = np.lexsort((word, -words.counts[word], rank))
    first = order[np.flatnonzero(np.diff(rank[order], prepend=-1))]
    return {
        int(rank[index]): words.data[words.offsets[word[index]] : words.offsets[word[index] + 1]].tobytes()
        for index in first
    }


def _encoded(texts: list[bytes], vocabulary: Vocabulary) -> list[tuple[bytes, ...]]:
    """What each text alone is encoded as; parts of UTF-8 characters, which are no text, by joining."""
    cuts = [cut(text.decode()) if is_text(text) else [text] for text in texts]
    words = Words.of(dict.fromkeys((piece for pieces in cuts for piece in pieces), 1))
    symbols, ends = encode_words(ranks_of(vocabulary.texts), words.data, words.offsets)
    own, ids = expansions(vocabulary)
    written = [
        tuple(
            vocabulary.token_bytes[i] for rank in symbols[first:last] for i in ids[own[rank] : own[rank + 1]]
        )
        for first, last in itertools.pairwise(ends)
    ]
    becomes = {word: written[index] for index, (word, _) in enumerate(words)}
    return [tuple(symbol for piece in pieces for symbol in becomes[piece]) for pieces in cuts]


@cache
def pollution() -> dict[str, Any]:
    """The content of ``pollution.yaml``."""
    loaded: dict[str, Any] = yaml.safe_load(
        files("tokenizer.learning").joinpath("pollution.yaml").read_text(encoding="utf-8")
    )
    return loaded
