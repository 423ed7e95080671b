"""Byte-level BPE, learned with Hugging Face ``tokenizers`` behind the reference's pre-tokenizer."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer.config import TokenizerConfig
from tokenizer.errors import VocabularyError
from tokenizer.splitting.cascade import pre_tokenizer


def train_bpe(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Learn ``config.learned_size`` entries: the 256 bytes, then merges. Special tokens are not added yet.

    The result depends on the multiset of texts alone, not on their order or on the number of threads.

    Raises:
        VocabularyError: the texts have too few distinct pairs to fill the vocabulary.
    """
    # ignore_merges: a pre-token that is an entry is taken whole, as the reference and Llama-3 do.
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.learned_size,
        min_frequency=config.min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size(with_added_tokens=False)
    if found != config.learned_size:
        # The trainer hands back a smaller vocabulary without a word; every model built on it would be off.
        raise VocabularyError(
            f"expected {config.learned_size} learned entries, but the sampled text gives only {found} "
            f"(pairs seen {config.min_frequency} times or more). Add text: sources, tokenizer.sample_bytes; "
            f"or lower tokenizer.vocab_size to {found + config.special_slots} or less."
        )
    return tokenizer
