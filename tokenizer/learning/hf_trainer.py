"""Hugging Face's own trainer behind the same splits: what the report compares with, and quick in tests."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer.errors import VocabularyError
from tokenizer.splitting.cascade import pre_tokenizer


def train_hf(entries: int, texts: Iterable[str], min_frequency: int = 2) -> Tokenizer:
    """Learn ``entries`` entries, the 256 bytes among them. Special tokens are not added yet.

    The result depends on the multiset of texts alone, not on their order or on the number of threads.

    Raises:
        VocabularyError: the texts have too few distinct pairs to fill the vocabulary.
    """
    # ignore_merges: a pre-token that is an entry is taken whole, as the reference and Llama-3 do.
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size(with_added_tokens=False)
    if found != entries:
        # The trainer hands back a smaller vocabulary without a word; every model built on it would be off.
        raise VocabularyError(f"expected {entries} learned entries, but the text gives only {found}")
    return tokenizer
