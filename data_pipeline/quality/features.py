"""Documents to features: hashed word n-grams and measures of shape, for many documents in one pass of numpy.

Text is taken as UTF-8 bytes. A token is a run of letters, digits or bytes above 127, lower-cased, each digit
as ``0``; or one punctuation mark. An n-gram is up to ``word_ngrams`` tokens in a row, hashed to a bucket.

The hash of a token is a polynomial over its bytes modulo 2**64, which prefix sums give for all tokens of a
batch at once: with ``H[i] = sum(byte[j] * P**j for j < i)``, a token ``[a, b)`` hashes to
``(H[b] - H[a]) * P**-a``. P is odd and so has an inverse modulo 2**64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipeline.config.quality import ScorerConfig

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_SPACE, _WORD, _MARK = 0, 1, 2
_GAP = b"\n"  # between documents: no token runs over it


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By byte: kind of token, normalised byte, and one-hot of what shape counts."""
    kind = np.full(256, _MARK, np.uint8)
    lower = np.arange(256, dtype=np.uint8)
    shape = np.zeros((256, 7), np.float32)
    for byte in range(256):
        char = chr(byte)
        if byte <= 32 or byte == 127:
            kind[byte] = _SPACE
            shape[byte, 5 if char == "\n" else 6] = 1
        elif byte > 127:
            kind[byte] = _WORD
            shape[byte, 3] = 1
        elif char.isalnum() or char == "_":
            kind[byte] = _WORD
            lower[byte] = ord("0") if char.isdigit() else ord(char.lower())
            shape[byte, 2 if char.isdigit() else 1 if char.isupper() else 0] = 1
        else:
            shape[byte, 4] = 1
    return kind, lower, shape


_KIND, _LOWER, _SHAPE = _tables()
_CLASSES = [np.flatnonzero(_SHAPE[:, column]) for column in range(_SHAPE.shape[1])]
_PROSE = np.frombuffer(b".,;:!?'\"()-", np.uint8)
_END = np.zeros(256, bool)
_END[np.frombuffer(b".!?\"')", np.uint8)] = True

SHAPES = (
    "log_length",
    "lower",
    "upper",
    "digit",
    "beyond_ascii",
    "mark",
    "newline",
    "blank",
    "prose_marks",
    "log_line_length",
    "log_token_length",
    "distinct_ngrams",
    "ends_with_stop",
)


@dataclass(frozen=True)
class Features:
    """Features of ``n`` documents.

    Attributes:
        offsets: ``[n + 1]``: the n-grams of document ``i`` are ``offsets[i]:offsets[i + 1]``.
        buckets: ``[n-grams]`` int64, rising within a document, each once.
        counts: ``[n-grams]`` float32, how often it occurs there.
        shape: ``[n, len(SHAPES)]`` float32.
    """

    offsets: np.ndarray
    buckets: np.ndarray
    counts: np.ndarray
    shape: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> "Features":
        """The features of some documents, in the given order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Features(offsets, self.buckets[index], self.counts[index], self.shape[rows])


def excerpt_bytes(text: str, limit: int) -> bytes:
    """What the scorer reads of a text: all of it, or its first half of ``limit`` bytes, a quarter from the
    middle and a quarter from the end."""
    # Cut before encoding: a document of 100 MB costs what its excerpt costs.
    if len(text) > 3 * limit:
        middle = len(text) // 2
        text = text[:limit] + text[middle - limit // 2 : middle + limit // 2] + text[-limit:]
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw
    quarter, middle = limit // 4, len(raw) // 2
    return b"".join((raw[: limit - 2 * quarter], _GAP, raw[middle : middle + quarter], _GAP, raw[-quarter:]))


@lru_cache(maxsize=1)
def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """``P**j`` and ``P**-j`` modulo 2**64 for ``j < length``."""
    found = []
    for base in (_BASE, _INVERSE):
        powers = np.full(length, base, np.uint64)
        powers[0] = 1
        found.append(np.cumprod(powers, dtype=np.uint64))
    return found[0], found[1]


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread the bits of 64-bit values (the finaliser of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))


def featurize(texts: Sequence[str], config: ScorerConfig) -> Features:
    """Features of documents; what one document gives does not depend on the others in the batch.

    Args:
        texts: any number; a batch of about a megabyte is quickest.
        config: number of buckets, n-gram length, bytes read.
    """
    raws = [excerpt_bytes(text, config.max_bytes) for text in texts]
    sizes = np.array([len(raw) for raw in raws], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes + 1)]) + 1  # a gap before the first and after each
    data = np.frombuffer(_GAP + b"".join(raw + _GAP for raw in raws), np.uint8)

    kind = _KIND[data]
    begins = np.flatnonzero((kind[1:] != _SPACE) & ((kind[1:] != kind[:-1]) | (kind[1:] == _MARK))) + 1
    ends = np.flatnonzero((kind[:-1] != _SPACE) & ((kind[1:] != kind[:-1]) | (kind[:-1] == _MARK))) + 1
    powers, inverses = _powers(1 << max(20, len(data).bit_length()))
    prefix = np.zeros(len(data) + 1, np.uint64)
    np.cumsum((_LOWER[data].astype(np.uint64) + np.uint64(1)) * powers[: len(data)], out=prefix[1:])
    hashes = _mix((prefix[ends] - prefix[begins]) * inverses[begins])
    first = np.searchsorted(begins, starts)  # token number at which each document begins
    tokens = np.diff(first)
    owner = np.repeat(np.arange(len(texts)), tokens)

    keys, gram = [], hashes
    shift = np.uint64(64 - config.buckets.bit_length() + 1)
    for size in range(1, config.word_ngrams + 1):
        if size > 1:
            gram = _mix(gram[:-1] * np.uint64(3) + hashes[size - 1 :])
        same = owner[: len(gram)] == owner[size - 1 :]
        bucket = (gram >> shift).astype(np.int64)
        keys.append((owner[: len(gram)] * config.buckets + bucket)[same])
    grams = np.sort(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    new = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]])) if len(grams) else grams
    counts = np.diff(np.concatenate([new, [len(grams)]])).astype(np.float32)
    unique = grams[new]
    offsets = np.searchsorted(unique, np.arange(len(texts) + 1) * config.buckets)
    total = np.searchsorted(grams, np.arange(len(texts) + 1) * config.buckets)

    shape = np.zeros((len(texts), len(SHAPES)), np.float32)
    lengths = np.array([len(text) for text in texts], np.float64)
    for row, raw in enumerate(raws):
        seen = np.bincount(np.frombuffer(raw, np.uint8), minlength=256)
        size = max(1, len(raw))
        shape[row, 1:8] = [seen[group].sum() / size for group in _CLASSES]
        shape[row, 8] = seen[_PROSE].sum() / size
        shape[row, 9] = np.log(size / (1 + seen[10]))
        shape[row, 12] = _END[raw.rstrip()[-1]] if raw.strip() else 0
    shape[:, 0] = np.log1p(lengths)
    shape[:, 10] = np.log1p(sizes / np.maximum(1, tokens))
    shape[:, 11] = np.diff(offsets) / np.maximum(1, np.diff(total))
    return Features(offsets, unique - np.repeat(np.arange(len(texts)) * config.buckets, np.diff(offsets)),
                    counts, shape)  # fmt: skip


def concatenate(parts: Sequence[Features]) -> Features:
    """Features of several batches as one."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Features(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part.buckets for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.shape for part in parts]),
    )
