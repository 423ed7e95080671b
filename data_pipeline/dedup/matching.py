"""Who is dropped for whom.

The rule: documents have an order of precedence, the kept index before everything new. A document is dropped
if an earlier one shares a band's key with it and is similar enough; its survivor is that one, or that one's
survivor. So what is kept or dropped never depends on later documents: adding shards one by one gives what
one run over all of them in that order gives, old decisions stay, and the bands can be worked on apart from
one another, in ranges of keys. (Connected components, the usual choice, have none of that: a new document may
join two old clusters.)

A key has leaders: its first document, then the first that is similar to no leader before, and so on, at most
``LEADERS``. Documents are compared with leaders only, so a band takes linear time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.dedup.minhash import similarity
from data_pipeline.dedup.parts import I64, U64, Parts

LEADERS = 16  # per key; documents that share a band are nearly always similar, so few keys have two
PAIRS = 1 << 16  # compared at a time: 15 MB of signatures

F32 = npt.NDArray[np.float32]
Similar = Callable[[I64, I64], F32]


@dataclass(frozen=True)
class Matches:
    """What a band says about a range of keys.

    Attributes:
        documents, earlier, similarity: of the dropped: the document, the one it is dropped for, the estimate.
        keys, leaders: new leaders, sorted by key, within a key in order of precedence.
    """

    documents: I64
    earlier: I64
    similarity: F32
    keys: U64
    leaders: I64


def match(
    keys: U64, numbers: I64, kept: Sequence[tuple[U64, I64]], similar: Similar, threshold: float
) -> Matches:
    """Compare the documents of a band with the leaders of their keys.

    Args:
        keys: sorted; equal ones in order of precedence.
        numbers: the documents.
        kept: per table of the kept index, keys of the leaders (sorted, in order of precedence) and documents.
        similar: estimates similarity of pairs.
        threshold: least similarity.
    """
    earlier = np.full(len(keys), -1, np.int64)
    estimate = np.zeros(len(keys), np.float32)
    taken = np.zeros(len(keys), np.int64)

    def compare(rows: I64, others: I64) -> npt.NDArray[np.bool_]:
        values = similar(numbers[rows], others)
        hit = values >= threshold
        earlier[rows[hit]] = others[hit]
        estimate[rows[hit]] = values[hit]
        return hit

    for kept_keys, kept_numbers in kept:
        left, right = (np.searchsorted(kept_keys, keys, side) for side in ("left", "right"))
        taken += right - left
        for step in range(int((right - left).max(initial=0))):
            rows = np.flatnonzero((earlier < 0) & (left + step < right))
            compare(rows, kept_numbers[left[rows] + step])
    leaders = []
    rest = np.flatnonzero((earlier < 0) & (taken < LEADERS))
    while len(rest):
        first = np.ones(len(rest), np.bool_)
        first[1:] = keys[rest[1:]] != keys[rest[:-1]]
        heads = rest[first]
        leaders.append(heads)
        others = numbers[heads][np.cumsum(first) - 1][~first]
        rest = rest[~first]
        taken[rest] += 1
        rest = rest[~compare(rest, others) & (taken[rest] < LEADERS)]
    dropped = np.flatnonzero(earlier >= 0)
    chosen = np.sort(np.concatenate(leaders)) if leaders else np.zeros(0, np.int64)
    return Matches(numbers[dropped], earlier[dropped], estimate[dropped], keys[chosen], numbers[chosen])


def same_digest(parts: Parts) -> Similar:
    """1 where the other half of the digest is equal too."""

    def similar(one: I64, other: I64) -> F32:
        return (parts.take("digests", one) == parts.take("digests", other)).astype(np.float32)

    return similar


def estimated(parts: Parts) -> Similar:
    """Jaccard similarity by the signatures."""

    def similar(one: I64, other: I64) -> F32:
        result = np.zeros(len(one), np.float32)
        for at in range(0, len(one), PAIRS):
            rows = slice(at, at + PAIRS)
            minima: list[Any] = [parts.take("minhash", numbers[rows]) for numbers in (one, other)]
            result[rows] = similarity(*minima)
        return result

    return similar


@dataclass(frozen=True)
class Dropped:
    """Dropped documents by number, rising.

    Attributes:
        documents: the dropped.
        earlier: the document each is dropped for: of several, an equal one, then the strongest.
        similarity: of the two; 1 for equal texts.
        exact: whether they are equal.
    """

    documents: I64
    earlier: I64
    similarity: F32
    exact: npt.NDArray[np.bool_]

    @classmethod
    def nothing(cls) -> "Dropped":
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, empty.astype(np.float32), empty.astype(np.bool_))

    def joined(self, more: "Dropped", parts: Parts) -> "Dropped":
        """Both, with one reason per document."""
        documents, earlier, values, exact = (
            np.concatenate([getattr(self, name), getattr(more, name)])
            for name in ("documents", "earlier", "similarity", "exact")
        )
        table, order, number = parts.precedence(earlier)
        rows = np.lexsort((number, order, table, ~exact, documents))
        first = np.ones(len(rows), np.bool_)
        first[1:] = documents[rows[1:]] != documents[rows[:-1]]
        rows = rows[first]
        return Dropped(documents[rows], earlier[rows], values[rows], exact[rows])

    def survivors(self, parts: Parts) -> I64:
        """The survivor of each one's cluster, by following who it was dropped for."""
        survivor = self.earlier.copy()
        while True:
            place = np.searchsorted(self.documents, survivor)
            place[place == len(self.documents)] = 0
            on = self.documents[place] == survivor
            if not on.any():
                break
            survivor[on] = survivor[place[on]]
        old = np.flatnonzero(survivor < parts.new)
        survivor[old] = parts.take("roots", survivor[old])
        return survivor
