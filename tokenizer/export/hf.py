"""A vocabulary as a Hugging Face ``tokenizers.Tokenizer``, with exactly the ids of the canonical rule.

``tokenizers`` merges pairs, where the canonical rule (``tokenizer.vocabulary``) joins whatever bytes make an
entry. One pair per entry is enough for both to agree. While a pre-token is being merged, look at two
neighbours whose bytes together are an entry ``X``. Nothing was ever joined across the ends of ``X`` there,
and within them every step took the leftmost of the lowest ranks, so the steps are those of merging ``X``
alone. That run is one fixed sequence, and the two neighbours are its state of two pieces. So ``X`` is always
made of the same pair, whatever surrounds it, and a list of those pairs in rank order is the whole rule, ties
included.
"""

from itertools import pairwise

from tokenizers import Tokenizer, decoders, models

from tokenizer.errors import VocabularyError
from tokenizer.load import byte_characters
from tokenizer.splitting.cascade import pre_tokenizer
from tokenizer.vocabulary import Vocabulary


def to_tokenizers(vocabulary: Vocabulary) -> Tokenizer:
    """Byte-level BPE behind the cascade, ``ignore_merges`` as the reference; no special tokens yet.

    Raises:
        VocabularyError: the vocabulary has scaffolds, which ``tokenizers`` cannot take apart again.
    """
    if vocabulary.scaffolds.any():
        raise VocabularyError(
            "a vocabulary with scaffolds cannot be a plain tokenizers.Tokenizer; "
            "use tokenizer.export.scaffold.to_tokenizers"
        )
    return build(vocabulary, {text: rank for rank, text in enumerate(vocabulary.texts)})


def build(vocabulary: Vocabulary, ids: dict[bytes, int]) -> Tokenizer:
    """A tokenizer of all ranks, each under the id given for its bytes."""
    names = _names(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={names[rank]: ids[text] for rank, text in enumerate(vocabulary.texts)},
            merges=[(names[left], names[right]) for left, right in pairs(vocabulary) if left >= 0],
            ignore_merges=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pairs(vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """The two ranks each entry is made of, ``[ranks]``; (-1, -1) for bytes and for what no merging makes.

    An entry no merging makes is still reached where it is a whole pre-token.
    """
    ranks = {text: rank for rank, text in enumerate(vocabulary.texts)}
    return [_pair(text, ranks) for text in vocabulary.texts]


def _pair(text: bytes, ranks: dict[bytes, int]) -> tuple[int, int]:
    """The last two pieces when merging an entry alone."""
    splits = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
    known = [(ranks[left], ranks[right]) for left, right in splits if left in ranks and right in ranks]
    if (
        len(known) <= 1
    ):  # the only one there could be; where merging never gets to it, listing it does nothing
        return known[0] if known else (-1, -1)
    pieces = [text[place : place + 1] for place in range(len(text))]
    while len(pieces) > 2:
        joined = [ranks.get(left + right, -1) for left, right in pairwise(pieces)]
        best = min((rank for rank in joined if rank >= 0), default=-1)
        if best < 0:
            return -1, -1
        place = joined.index(best)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return ranks[pieces[0]], ranks[pieces[1]]


def _names(vocabulary: Vocabulary) -> list[str]:
    """Entries as ``tokenizers`` writes them, a printable character per byte, ``[ranks]``."""
    characters = byte_characters()
    return ["".join(characters[byte] for byte in text) for text in vocabulary.texts]
