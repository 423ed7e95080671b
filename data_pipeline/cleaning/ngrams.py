"""Words and word n-grams of a text as arrays: folded, hashed, and all at once.

A word is a run of letters, digits and marks, without case, accents and compatibility forms (so ``Ｃafé`` is
``cafe``); punctuation and symbols only separate. In scripts written without spaces every character is a word.

Hashes are polynomials modulo 2^64 with odd bases. An odd base has an inverse, so the hash of any stretch is
a difference of two prefix sums times a power: no loop over words or n-grams is left to Python. Equal hashes
are only a hint (``words_equal`` decides).
"""

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_CHARACTER_BASE = 0x9E3779B97F4A7C15  # both odd; the golden ratio's bits and splitmix64's first multiplier
_WORD_BASE = 0xBF58476D1CE4E5B9
_SEPARATOR, _DROPPED, _ALONE, _LETTER = range(4)
_SCRIPTS_WITHOUT_SPACES = (  # first and last code points
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # CJK and Kangxi radicals
    (0x3005, 0x3007),
    (0x3040, 0x312F),  # kana, Bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x323AF),  # Han, planes 2 and 3
)


@dataclass(frozen=True)
class Words:
    """The words of a text, in order.

    Attributes:
        codes: folded code points, without what the folding drops; uint64 [kept characters].
        first, last: of each word in ``codes``, last exclusive; int64 [words].
        start, end: of each word in the text, in characters, end exclusive; int64 [words].
    """

    codes: U64
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def word(self, index: int) -> bytes:
        """A folded word as bytes: equal words, equal bytes."""
        return self.codes[self.first[index] : self.last[index]].tobytes()

    def text(self, start: int, stop: int) -> str:
        """Folded words ``start`` to ``stop`` (exclusive), separated by spaces."""
        return " ".join(
            "".join(map(chr, self.codes[self.first[i] : self.last[i]].tolist())) for i in range(start, stop)
        )


def split(text: str) -> Words:
    """The words of a text."""
    if text.isascii():
        raw: npt.NDArray[np.unsignedinteger] = np.frombuffer(text.encode("ascii"), np.uint8)
        codes = _ascii()[raw]
        inside = np.zeros(len(raw) + 2, np.bool_)
        np.not_equal(codes, 0, out=inside[1:-1])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        first, last = edges[::2], edges[1::2]
        return Words(codes, first, last, first, last)
    raw = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    folded, kinds = _unicode()
    kind = kinds[raw]
    where: npt.NDArray[np.int64] | None = None
    if (kind == _DROPPED).any():
        where = np.flatnonzero(kind != _DROPPED)
        raw, kind = raw[where], kind[where]
    codes = folded[raw]
    around = np.zeros(len(raw) + 2, np.uint8)
    around[1:-1] = kind
    wordlike = around >= _ALONE
    edge = (wordlike[1:] != wordlike[:-1]) | (around[1:] == _ALONE) | (around[:-1] == _ALONE)
    first = np.flatnonzero(edge[:-1] & wordlike[1:-1])
    last = np.flatnonzero(edge[1:] & wordlike[1:-1]) + 1
    if where is None:
        return Words(codes, first, last, first, last)
    return Words(codes, first, last, where[first], where[last - 1] + 1)


def word_hashes(words: Words) -> U64:
    """64-bit hashes of the words; uint64 [words]."""
    powers, inverses = _powers(_CHARACTER_BASE, len(words.codes))
    sums = np.zeros(len(words.codes) + 1, np.uint64)
    np.cumsum(words.codes * powers[: len(words.codes)], out=sums[1:])
    return mix((sums[words.last] - sums[words.first]) * inverses[words.first])


def gram_hashes(hashes: U64, n: int, sums: U64 | None = None) -> U64:
    """64-bit hashes of all n-grams of words; uint64 [words - n + 1].

    Args:
        hashes: of the words.
        n: words per n-gram. n-grams of different lengths have unrelated hashes.
        sums: ``prefix_sums(hashes)``, if they are at hand.
    """
    number = len(hashes) - n + 1
    if number <= 0:
        return np.zeros(0, np.uint64)
    if sums is None:
        sums = prefix_sums(hashes)
    _, inverses = _powers(_WORD_BASE, len(hashes))
    return mix((sums[n:] - sums[:number]) * inverses[:number] + np.uint64(n))


def prefix_sums(hashes: U64) -> U64:
    """What ``gram_hashes`` of several lengths share; uint64 [words + 1]."""
    powers, _ = _powers(_WORD_BASE, len(hashes))
    sums = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes * powers[: len(hashes)], out=sums[1:])
    return sums


def words_equal(one: Words, i: int, other: Words, j: int, n: int) -> bool:
    """Whether the ``n`` words from ``i`` of one text are those from ``j`` of another."""
    return i + n <= len(one) and j + n <= len(other) and all(
        one.word(i + k) == other.word(j + k) for k in range(n)
    )  # fmt: skip


def mix(values: U64) -> U64:
    """splitmix64's finaliser (a bijection): every bit depends on every bit."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


_tables: dict[int, tuple[U64, U64]] = {}


def _powers(base: int, number: int) -> tuple[U64, U64]:
    """At least the first ``number`` powers of an odd base modulo 2^64, and those of its inverse."""
    tables = _tables.get(base)
    if tables is None or len(tables[0]) < number:
        size = 1 << max(16, number.bit_length())
        tables = tuple(  # type: ignore[assignment]  # two of them
            np.concatenate([np.ones(1, np.uint64), np.cumprod(np.full(size - 1, factor, np.uint64))])
            for factor in (base, pow(base, -1, 1 << 64))
        )
        _tables[base] = tables
    return tables


@cache
def _ascii() -> U64:
    """Folded code per ASCII character, 0 for separators."""
    return np.array([ord(chr(c).lower()) if chr(c).isalnum() else 0 for c in range(128)], np.uint64)


@cache
def _unicode() -> tuple[U64, npt.NDArray[np.uint8]]:
    """Folded code and kind per code point."""
    folded = np.arange(0x110000, dtype=np.uint64)
    kinds = np.full(0x110000, _SEPARATOR, np.uint8)
    for code in range(0x20000):  # planes above hold Han, which folds to itself, and what separates
        character = chr(code)
        category = unicodedata.category(character)
        if unicodedata.combining(character) or category == "Cf":
            kinds[code] = _DROPPED
        elif category[0] in "LNM":
            kinds[code] = _LETTER
            plain = "".join(
                c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)
            )
            low = (plain if len(plain) == 1 else character).lower()
            folded[code] = ord(low) if len(low) == 1 else code
    for start, stop in _SCRIPTS_WITHOUT_SPACES:
        block = kinds[start : stop + 1]
        block[block == _LETTER] = _ALONE
        if start >= 0x20000:
            block[:] = _ALONE
    kinds[0xE0000:0xE0FFF] = _DROPPED  # tags, variation selectors
    return folded, kinds
