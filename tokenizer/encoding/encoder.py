"""Texts to ids by the canonical rule, in batches: the fast way that agrees with every export.

A batch is divided into groups of texts, which threads encode side by side: one call of a kernel each, that
holds no lock of the interpreter. Each thread has a cache of short pre-tokens, a table of fixed size in which
a newer one takes an older one's place. Whether a pre-token is found there changes the time, never the ids.
"""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stemma.core.errors import DamagedError
from stemma.core.files import read_json
from tokenizer.encoding.ranks import Ranks, find, ranks_of
from tokenizer.encoding.rule import SHORT, join
from tokenizer.encoding.scaffolds import Expansions, expansions
from tokenizer.errors import TextError
from tokenizer.kernels import njit
from tokenizer.load import check_text
from tokenizer.specials import MARKUP
from tokenizer.splitting.scan import next_end
from tokenizer.splitting.unicode import character_classes
from tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

GROUP = 1 << 18  # characters a thread takes at a time: many calls' work, and little to wait for at the end

# A line of the cache: four words of key (31 bytes of a pre-token and its length), then the ids.
CACHE_LINES = 1 << 16  # of 64 bytes: 4 MiB a thread
LONGEST_KEY = 31
MOST_IDS = 7
_MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64)


class Encoder:
    """Encodes ordinary text, and decodes.

    Threads may share one. Control tokens that occur in a text are text, as in ``tokenizer.load.encode_text``;
    markup (``<think>``) is its own id there and here.

    Args:
        vocabulary: learned entries.
        specials: special tokens in the order of their ids, which follow those of the entries.
        threads: how many encode one batch; by default as many as this process may use processors.

    Attributes:
        token_bytes: the bytes each id stands for; ``b""`` for control and reserved tokens.
    """

    def __init__(
        self, vocabulary: Vocabulary, specials: Sequence[str] = (), *, threads: int | None = None
    ) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.token_bytes = [
            *vocabulary.token_bytes,
            *(token.encode() if token in MARKUP else b"" for token in specials),
        ]
        first = len(vocabulary)
        self._markup = {token: first + index for index, token in enumerate(specials) if token in MARKUP}
        longest_first = sorted(self._markup, key=len, reverse=True)
        self._find_markup = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._ranks = ranks_of(vocabulary.texts)
        self._expansions = expansions(vocabulary)
        self._caches: list[NDArray[np.uint64]] = []  # of threads that are not encoding now

    @classmethod
    def load(cls, folder: Path | str, *, threads: int | None = None) -> "Encoder":
        """The encoder of a tokenizer artifact.

        Args:
            folder: the artifact's, with ``vocabulary.parquet`` and ``hf/``.

        Raises:
            DamagedError: it holds no vocabulary of ours (another backend keeps none), or one that does not
                fit its special tokens.
        """
        path = Path(folder)
        vocabulary = Vocabulary.load(path / VOCABULARY_FILE)
        try:
            found = read_json(path / "hf" / "tokenizer.json")
            added = sorted(found["added_tokens"], key=lambda token: token["id"])
        except (OSError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{path}: hf/tokenizer.json cannot be read or lists no added_tokens ({error!r}); expected "
                "the folder of a tokenizer artifact. It was left as it is."
            ) from error
        first = len(vocabulary)
        if [token["id"] for token in added] != list(range(first, first + len(added))):
            raise DamagedError(
                f"{path}: the special tokens of hf/tokenizer.json do not follow the {first} entries of "
                f"{VOCABULARY_FILE}. They were left as they are."
            )
        return cls(vocabulary, [token["content"] for token in added], threads=threads)

    def __len__(self) -> int:
        """How many ids there are, special tokens included."""
        return len(self.token_bytes)

    def encode(self, text: str) -> NDArray[np.int32]:
        """``encode_batch`` of one text, ``[tokens]``."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Ids of each text, ``[texts]`` of ``[tokens]``: ``decode`` gives exactly its UTF-8 again.

        Raises:
            TextError: a text holds a lone surrogate, which no UTF-8 can express.
        """
        groups = list(_groups(texts))
        threads = min(self.threads, len(groups))
        if threads <= 1:
            return [ids for group in groups for ids in self._encode(group)]
        with ThreadPoolExecutor(threads) as pool:
            return [ids for encoded in pool.map(self._encode, groups) for ids in encoded]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> bytes:
        """The bytes that ids stand for; what ids of ordinary text stand for is UTF-8.

        Raises:
            TextError: an id is none of this vocabulary's.
        """
        numbers = np.asarray(ids, np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            wrong = numbers[(numbers < 0) | (numbers >= len(self))][0]
            raise TextError(f"{wrong} is no id of this vocabulary; its ids are 0 to {len(self) - 1}")
        return b"".join([self.token_bytes[index] for index in numbers.tolist()])

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Ids of one group of texts, by the calling thread."""
        pieces: list[bytes] = []
        fixed: list[int] = []  # id of each piece that is markup, -1 of each that is text
        ends = []  # pieces up to the end of each text
        for text in texts:
            for piece, index in self._pieces(text):
                pieces.append(piece)
                fixed.append(index)
            ends.append(len(pieces))
        offsets = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), out=offsets[1:])
        size = int(offsets[-1])
        # Whole words of 8 bytes, and four more: a key is read as four words wherever it begins.
        words = np.zeros(size // 8 + 6, np.uint64)
        data = words.view(np.uint8)
        data[:size] = np.frombuffer(b"".join(pieces), np.uint8)
        out = np.empty(size, np.int32)  # no token is empty
        counts = np.zeros(len(pieces) + 1, np.int64)
        try:
            cache = self._caches.pop()
        except IndexError:  # not asked before: another thread may take the last one in between
            cache = np.zeros((CACHE_LINES, 8), np.uint64)
        _encode_pieces(
            self._ranks,
            self._expansions,
            character_classes(),
            data,
            words,
            offsets,
            np.array(fixed, np.int32),
            cache,
            cache.view(np.int32),
            out,
            counts,
        )
        self._caches.append(cache)
        bounds = counts[[0, *ends]].tolist()
        return [out[start:stop].copy() for start, stop in pairwise(bounds)]

    def _pieces(self, text: str) -> Iterator[tuple[bytes, int]]:
        """A text cut at its markup: pieces of text with -1, and markup with its id."""
        try:
            if self._find_markup is None or "<" not in text:
                yield text.encode(), -1
                return
            start = 0
            for match in self._find_markup.finditer(text):
                yield text[start : match.start()].encode(), -1
                yield match[0].encode(), self._markup[match[0]]
                start = match.end()
            yield text[start:].encode(), -1
        except UnicodeEncodeError:
            check_text(text)  # says where in the whole text
            raise


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbouring texts of about ``GROUP`` characters together; a long text alone."""
    start = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > GROUP:
            yield texts[start:index]
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


@njit(cache=True, nogil=True)
def _encode_pieces(
    ranks: Ranks,
    expansions: Expansions,
    classes: NDArray[np.uint8],
    data: NDArray[np.uint8],
    words: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    fixed: NDArray[np.int32],
    keys: NDArray[np.uint64],
    values: NDArray[np.int32],
    out: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """Encode pieces of text end to end.

    Args:
        words: the memory of ``data``, by 8 bytes; 32 bytes longer than the text.
        offsets: piece ``i`` is ``data[offsets[i] : offsets[i + 1]]``.
        fixed: id of a piece that is not text, else -1.
        keys, values: the same memory, the cache, as ``[lines, 8]`` uint64 and ``[lines, 16]`` int32.
        out: takes the ids of all pieces; as long as the text.
        counts: takes the ids up to the end of each piece, ``[pieces + 1]``.
    """
    entries, starts, byte_ranks, byte_pairs, slots, pairs = ranks
    id_offsets, ids = expansions
    longest = np.int64(0)
    for piece in range(len(fixed)):
        longest = max(longest, offsets[piece + 1] - offsets[piece])
    symbols = np.empty(longest, np.int32)
    joined = np.empty(SHORT, np.int32)
    key = np.zeros(4, np.uint64)
    mask = np.uint64(len(keys) - 1)
    count = np.int64(0)
    for piece in range(len(fixed)):
        at, stop = offsets[piece], offsets[piece + 1]
        if fixed[piece] >= 0:
            out[count] = fixed[piece]
            count += 1
            at = stop
        while at < stop:
            end = next_end(data, at, stop, classes)
            length = end - at
            short = length <= LONGEST_KEY
            line = np.uint64(0)
            if short:
                line = _read_key(words, at, length, key) & mask
                if (
                    keys[line, 0] == key[0]
                    and keys[line, 1] == key[1]
                    and keys[line, 2] == key[2]
                    and keys[line, 3] == key[3]
                ):
                    for index in range(values[line, 8]):
                        out[count + index] = values[line, 9 + index]
                    count += values[line, 8]
                    at = end
                    continue
            whole = find(entries, starts, slots, data, at, end)
            if whole >= 0:
                symbols[0] = whole
                found = np.int64(1)
            else:
                for index in range(length):
                    symbols[index] = byte_ranks[data[at + index]]
                found = join(byte_pairs, pairs, symbols, np.int64(0), length, joined, np.int64(1))
            first = count
            for index in range(found):
                for place in range(id_offsets[symbols[index]], id_offsets[symbols[index] + 1]):
                    out[count] = ids[place]
                    count += 1
            if short and count - first <= MOST_IDS:
                for index in range(4):
                    keys[line, index] = key[index]
                values[line, 8] = count - first
                for index in range(count - first):
                    values[line, 9 + index] = out[first + index]
            at = end
        counts[piece + 1] = count


@njit(cache=True, nogil=True)
def _read_key(words: NDArray[np.uint64], start: int, length: int, key: NDArray[np.uint64]) -> np.uint64:
    """The pre-token of up to 31 bytes at byte ``start`` as four words, the last byte its length; a hash.

    No two pre-tokens have one key, and none has that of an empty line, whose length would be 0.
    """
    word = start >> 3
    shift = np.uint64((start & 7) * 8)
    mixed = np.uint64(0)
    for index in range(4):
        left = length - 8 * index
        value = np.uint64(0)
        if left > 0:
            value = words[word + index] >> shift
            if shift:
                value |= words[word + index + 1] << (np.uint64(64) - shift)
            if left < 8:
                value &= (np.uint64(1) << np.uint64(8 * left)) - np.uint64(1)
        if index == 3:
            value |= np.uint64(length) << np.uint64(56)
        key[index] = value
        mixed ^= value * _MIX[index]
        mixed ^= mixed >> np.uint64(29)
    mixed *= _MIX[0]
    return mixed ^ (mixed >> np.uint64(32))
