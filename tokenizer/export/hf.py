"""A vocabulary as a Hugging Face ``tokenizers.Tokenizer``, with exactly the ids of the canonical rule.

``tokenizers`` merges pairs, where the canonical rule (``tokenizer.vocabulary``) joins whatever bytes make an
entry; ``tokenizer.merges`` says why one pair per entry makes both the same.
"""

from tokenizers import Tokenizer, decoders, models

from tokenizer.errors import VocabularyError
from tokenizer.load import byte_characters
from tokenizer.merges import pairs
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


def _names(vocabulary: Vocabulary) -> list[str]:
    """Entries as ``tokenizers`` writes them, a printable character per byte, ``[ranks]``."""
    characters = byte_characters()
    return ["".join(characters[byte] for byte in text) for text in vocabulary.texts]
