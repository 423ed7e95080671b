"""What scaffolds (Scaffold-BPE, arXiv 2404.17808) become: joining may pass through them, ids never show them.

The paper splits a scaffold into its components until none is a scaffold, and says that the shortest of these
expansions can be prepared. Here it is the least number of entries with ids whose bytes are the scaffold's; of
several such, the one with the longest first entry, then the longest second, and so on. Bytes are never
scaffolds, so there is always one.
"""

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenizer.vocabulary import Vocabulary


class Expansions(NamedTuple):
    """Ids of every rank: its own, or those a scaffold is taken apart into.

    Attributes:
        offsets: rank ``r`` has ``ids[offsets[r] : offsets[r + 1]]``, ``[ranks + 1]`` int32.
        ids: ``[ids]`` int32.
    """

    offsets: NDArray[np.int32]
    ids: NDArray[np.int32]


def expansions(vocabulary: Vocabulary) -> Expansions:
    """The ids of every rank, in the form kernels take."""
    taken_apart = pieces(vocabulary)
    own = vocabulary.ids.tolist()
    found = [taken_apart.get(rank, (index,)) for rank, index in enumerate(own)]
    offsets = np.zeros(len(found) + 1, np.int32)
    np.cumsum([len(ids) for ids in found], out=offsets[1:])
    return Expansions(offsets, np.array([index for ids in found for index in ids], np.int32))


def pieces(vocabulary: Vocabulary) -> dict[int, tuple[int, ...]]:
    """The ids each scaffold is taken apart into, by its rank."""
    ids = {text: index for index, text in enumerate(vocabulary.token_bytes)}
    lengths = sorted(set(map(len, ids)))
    return {
        rank: tuple(ids[text] for text in _fewest(vocabulary.texts[rank], ids, lengths))
        for rank in np.flatnonzero(vocabulary.scaffolds).tolist()
    }


def _fewest(text: bytes, ids: dict[bytes, int], lengths: list[int]) -> list[bytes]:
    """The shortest cut into entries, which have these lengths, the longest first."""
    needed = [0] * (len(text) + 1)  # pieces of text[place:]
    length = [0] * (len(text) + 1)  # bytes of the first of them
    for place in reversed(range(len(text))):
        needed[place], length[place] = min(
            (1 + needed[place + size], -size)  # of equals the longest
            for size in lengths[: bisect_right(lengths, len(text) - place)]
            if text[place : place + size] in ids
        )
    found, place = [], 0
    while place < len(text):
        found.append(text[place : place - length[place]])
        place -= length[place]
    return found
