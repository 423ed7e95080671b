"""MinHash signatures of texts, many texts at a time, by hashes that are written down here.

Words are those of ``cleaning.ngrams`` (case, accents and punctuation do not count; numbers do; CJK characters
are words of their own), shingles are word n-grams, hashed to 64 bits. Hash k of a shingle x is the upper half
of x times an odd number of its own, modulo 2^32, a permutation; the signature has the least of each over a
text's shingles. All of it is integer arithmetic of fixed width: any platform and numpy give the same.
A library's hashes (rensa's, say) are faster, but no promise: between its versions a kept index could change
its meaning, and hashing is a tenth of the time, splitting words the rest. ``HASHES`` is the version of it
all; ``tests/data_pipeline/test_dedup_minhash.py`` holds values that must not change while it stays the same.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from data_pipeline.cleaning.ngrams import gram_hashes, mix, split, word_hashes
from data_pipeline.config.dedup import DedupConfig

HASHES = 1
BATCH = 1_000_000  # characters hashed at a time: arrays of about 50 MB
ROWS = 1 << 15  # shingles per step of the inner loop: they stay in the cache

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def signatures(texts: Sequence[str], config: DedupConfig) -> tuple[U32, npt.NDArray[np.bool_]]:
    """MinHash signatures; which texts have words at all (the others are like nothing).

    Args:
        texts: at most a few megabytes.
        config: `n_grams`, `num_buckets`, `hashes_per_bucket`.

    Returns:
        uint32 [texts, num_buckets * hashes_per_bucket], zeros where a text has no word; bool [texts].
    """
    number = config.num_buckets * config.hashes_per_bucket
    result = np.zeros((len(texts), number), np.uint32)
    present = np.zeros(len(texts), np.bool_)
    for rows in batches(texts):
        shingles, lengths = shingled([texts[row] for row in rows], config.n_grams)
        index = np.asarray(rows)[lengths > 0]
        present[index] = True
        result[index] = least(shingles, lengths[lengths > 0], multipliers(number))
    return result, present


def batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Rows to hash together; plain ASCII apart from the rest, which takes a slower way."""
    rows: dict[bool, list[int]] = {True: [], False: []}
    sizes = {True: 0, False: 0}
    for row, text in enumerate(texts):
        kind = text.isascii()
        if rows[kind] and sizes[kind] + len(text) > BATCH:
            yield rows[kind]
            rows[kind], sizes[kind] = [], 0
        rows[kind].append(row)
        sizes[kind] += len(text)
    yield from (rest for rest in rows.values() if rest)


def shingled(texts: Sequence[str], n: int) -> tuple[U32, I64]:
    """Hashes of all shingles, text after text, and how many each text has.

    A text with fewer than ``n`` words is one shingle as a whole, one without words has none.
    """
    words = split("\n".join(texts))  # a line end separates words, and lets none grow over two texts
    ends = np.cumsum([len(text) + 1 for text in texts])
    last = np.searchsorted(words.start, ends)  # of each text, in words, exclusive
    counts = np.diff(last, prepend=0)
    hashes = word_hashes(words)
    lengths = np.where(counts >= n, counts - n + 1, np.minimum(counts, 1))
    inside = spread(last - counts, lengths)
    grams = np.zeros(len(hashes), np.uint64)
    grams[: max(0, len(hashes) - n + 1)] = gram_hashes(hashes, n)
    short = np.flatnonzero((counts > 0) & (counts < n))
    for row in short:
        first = last[row] - counts[row]
        grams[first] = gram_hashes(hashes[first : last[row]], int(counts[row]))[0]
    return (grams[inside] >> np.uint64(32)).astype(np.uint32), lengths


def spread(starts: I64, lengths: I64) -> I64:
    """The numbers ``start .. start + length - 1`` of every row, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def multipliers(number: int) -> U32:
    """The odd factors of the hash functions: splitmix64 of 1, 2, and so on."""
    return (mix(np.arange(1, number + 1, dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def least(shingles: U32, lengths: I64, factors: U32) -> U32:
    """Per text and hash function the least hash; uint32 [texts, functions]. Lengths are not zero."""
    if not len(lengths):
        return np.zeros((0, len(factors)), np.uint32)
    starts = np.cumsum(lengths) - lengths
    result = np.empty((len(factors), len(lengths)), np.uint32)
    hashed = np.empty_like(shingles)
    for function, factor in enumerate(factors):
        np.multiply(shingles, factor, out=hashed)
        np.minimum.reduceat(hashed, starts, out=result[function])
    return np.ascontiguousarray(result.T)


def band_keys(minima: U32, config: DedupConfig) -> U64:
    """64-bit hashes of the bands; uint64 [num_buckets, texts]. Equal bands have equal keys."""
    bands = minima.reshape(len(minima), config.num_buckets, config.hashes_per_bucket)
    keys = np.zeros((len(minima), config.num_buckets), np.uint64)
    for column in range(config.hashes_per_bucket):
        keys = mix(keys ^ bands[:, :, column])
    return np.ascontiguousarray(keys.T)


def similarity(one: U8, other: U8) -> npt.NDArray[np.float32]:
    """Jaccard similarity, estimated from the low bytes of signatures; float32 [pairs].

    Unequal hashes have equal low bytes once in 256 times, which is taken off (b-bit minwise hashing,
    arXiv 0910.3349, eq. 5 for small sets). Its standard error over 112 hashes is 0.04 at 0.8.
    """
    equal = (one == other).mean(axis=1, dtype=np.float32)
    return np.maximum(0, (equal - 1 / 256) / (1 - 1 / 256)).astype(np.float32)
