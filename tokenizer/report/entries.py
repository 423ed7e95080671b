"""What a vocabulary is made of: entries by script, length and stage, the longest, and those never used."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from tokenizer.vocabulary import Vocabulary

LONGEST = 16
WORDLESS = frozenset(("spaces", "digits", "symbols", "parts"))
MAX_LENGTH = 16  # characters; longer ones are counted together
SCRIPTS = {
    "latin": r"\p{Latin}",
    "han": r"\p{Han}",
    "kana": r"[\p{Hiragana}\p{Katakana}]",
    "hangul": r"\p{Hangul}",
    "cyrillic": r"\p{Cyrillic}",
    "greek": r"\p{Greek}",
    "arabic": r"\p{Arabic}",
    "hebrew": r"\p{Hebrew}",
    "devanagari": r"\p{Devanagari}",
    "thai": r"\p{Thai}",
}
_SCRIPTS = {name: regex.compile(pattern) for name, pattern in SCRIPTS.items()}
_LETTER = regex.compile(r"\p{L}")
_ASCII_LETTER = regex.compile(r"[A-Za-z]")


def script(entry: bytes) -> str:
    """The script of an entry's letters.

    Returns:
        ``ascii``; a name of ``SCRIPTS``; ``other``; ``mixed`` for letters of several; ``digits``, ``spaces``
        or ``symbols`` where there is no letter; ``parts`` where it is not whole characters.
    """
    try:
        text = entry.decode()
    except UnicodeDecodeError:
        return "parts"
    if text.isascii() and _ASCII_LETTER.search(text):
        return "ascii"
    if not _LETTER.search(text):
        return "spaces" if text.isspace() else "digits" if any(map(str.isdigit, text)) else "symbols"
    found = [name for name, pattern in _SCRIPTS.items() if pattern.search(text)]
    return "mixed" if len(found) > 1 else found[0] if found else "other"


def describe(token_bytes: Sequence[bytes], used: NDArray[np.int64]) -> dict[str, Any]:
    """Entries of a vocabulary in figures.

    Args:
        token_bytes: by id, ``b""`` for special tokens.
        used: how often each id occurred, ``[ids]``.

    Returns:
        ``learned``, ``used``, ``never_used`` (a part of those learned), ``scripts`` (script -> entries and
        used), ``lengths`` (characters -> entries; bytes for parts of characters), ``digits`` (entries of two
        or more digits), ``longest`` and ``longest_words`` (text, bytes, count).
    """
    entries = [(entry, count) for entry, count in zip(token_bytes, used.tolist()) if entry]
    seen = sum(count > 0 for _, count in entries)
    scripts: dict[str, list[int]] = {}
    lengths: Counter[int] = Counter()
    words = []
    for entry, count in entries:
        written = script(entry)
        if written not in WORDLESS:
            words.append((entry, count))
        tally = scripts.setdefault(written, [0, 0])
        tally[0] += 1
        tally[1] += count > 0
        lengths[min(characters(entry), MAX_LENGTH)] += 1
    return {
        "learned": len(entries),
        "used": seen,
        "never_used": round(1 - seen / len(entries), 4) if entries else 0.0,
        "scripts": {
            name: {"entries": total, "used": hit}
            for name, (total, hit) in sorted(scripts.items(), key=lambda item: (-item[1][0], item[0]))
        },
        "lengths": {str(length): lengths[length] for length in sorted(lengths)},
        "digits": sum(len(entry.strip()) > 1 and entry.strip().isdigit() for entry, _ in entries),
        "longest": _longest(entries),
        "longest_words": _longest(words),
    }


def stages(vocabulary: Vocabulary, used: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Entries by the stage that added them, in order: ``stage``, ``entries``, ``scaffolds``, ``used``."""
    found: dict[str, list[int]] = {}
    for entry, index in zip(vocabulary.entries, vocabulary.ids.tolist()):
        tally = found.setdefault(entry.stage, [0, 0, 0])
        tally[0] += not entry.scaffold
        tally[1] += entry.scaffold
        tally[2] += index >= 0 and used[index] > 0
    return [
        {"stage": name, "entries": tally[0], "scaffolds": tally[1], "used": int(tally[2])}
        for name, tally in found.items()
    ]


def characters(entry: bytes) -> int:
    """Length in characters; in bytes where it is not whole characters."""
    try:
        return len(entry.decode())
    except UnicodeDecodeError:
        return len(entry)


def readable(entry: bytes) -> str:
    """An entry as text, with ``\\xNN`` for bytes that are no character."""
    return entry.decode("utf-8", "backslashreplace")


def quoted(entry: bytes) -> str:
    """An entry in quotes, as Python writes it: a string, or bytes where it is not whole characters."""
    try:
        return repr(entry.decode())
    except UnicodeDecodeError:
        return repr(entry)


def _longest(entries: Sequence[tuple[bytes, int]]) -> list[dict[str, Any]]:
    first = sorted(entries, key=lambda pair: (-characters(pair[0]), -len(pair[0]), pair[0]))[:LONGEST]
    return [{"text": readable(entry), "bytes": len(entry), "count": count} for entry, count in first]
