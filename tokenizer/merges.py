"""What each entry is made of: one pair of earlier ones, whatever surrounds it.

Encoding joins any neighbours whose bytes together are an entry (``tokenizer.vocabulary``), yet only one pair
ever makes an entry. While a pre-token is being merged, look at two neighbours whose bytes together are an
entry ``X``. Nothing was joined across the ends of ``X`` there, or they would be no ends of pieces; and within
them every step took the leftmost of the lowest ranks, so the steps are those of merging ``X`` alone. That is
one fixed sequence, and the two neighbours are its state of two pieces. So a list of these pairs by rank,
as programs that merge pairs want it, is the whole rule, ties included.
"""

from itertools import pairwise

from tokenizer.vocabulary import Vocabulary


def pairs(vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """The two ranks each entry is made of, ``[ranks]``; (-1, -1) for bytes and for what no merging makes.

    An entry no merging makes is still reached where it is a whole pre-token. It may be given the only pair
    there is: two pieces that never stand beside one another are never joined.
    """
    ranks = {text: rank for rank, text in enumerate(vocabulary.texts)}
    result = []
    for text in vocabulary.texts:
        splits = ((ranks.get(text[:cut], -1), ranks.get(text[cut:], -1)) for cut in range(1, len(text)))
        known = [(left, right) for left, right in splits if left >= 0 and right >= 0]
        if len(known) > 1:
            parts = _parts(text, ranks)
            known = [(parts[0], parts[1])] if len(parts) == 2 else []
        result.append(known[0] if known else (-1, -1))
    return result


def _parts(text: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Merge an entry alone, up to the last step: two ranks, or more where merging ends before."""
    pieces = [text[place : place + 1] for place in range(len(text))]
    while len(pieces) > 2:
        joined = [ranks.get(left + right, -1) for left, right in pairwise(pieces)]
        best = min((rank for rank in joined if rank >= 0), default=-1)
        if best < 0:
            break
        place = joined.index(best)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return [ranks[piece] for piece in pieces]
