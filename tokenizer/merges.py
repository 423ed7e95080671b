"""What each entry is made of: one pair of earlier ones, whatever surrounds it.

Encoding joins any neighbours whose bytes together are an entry (``tokenizer.vocabulary``), yet only one pair
ever makes an entry. While a pre-token is being merged, look at two neighbours whose bytes together are an
entry ``X``. Nothing was joined across the ends of ``X`` there, or they would be no ends of pieces; and within
them every step took the leftmost of the lowest ranks, so the steps are those of merging ``X`` alone. That is
one fixed sequence, and the two neighbours are its state of two pieces. So a list of these pairs by rank,
as programs that merge pairs want it, is the whole rule, ties included.
"""

import numpy as np
from numpy.typing import NDArray

from tokenizer.encoding.ranks import ranks_of
from tokenizer.encoding.rule import EMPTY, MOST_RANKS, RANK_BITS
from tokenizer.vocabulary import Vocabulary


def pairs(vocabulary: Vocabulary) -> NDArray[np.int32]:
    """The two ranks each entry is made of, ``[ranks, 2]``; -1 for bytes and for what no merging makes.

    What no merging makes is still reached where it is a whole pre-token.
    """
    table = ranks_of(vocabulary.texts).pairs
    packed = table[table != EMPTY]
    bits, low = np.uint64(RANK_BITS), np.uint64(MOST_RANKS - 1)
    made = np.full((len(vocabulary.entries), 2), -1, np.int32)
    made[packed & low] = np.stack([packed >> (bits + bits), (packed >> bits) & low], axis=1)
    return made
