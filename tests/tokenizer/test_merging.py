"""Merging learns what Hugging Face's trainer learns, goes on from any vocabulary, and keeps Scaffold-BPE's rules."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tokenizer.errors import VocabularyError
from tokenizer.learning.merging import extend
from tokenizer.learning.words import Words
from tokenizer.vocabulary import Entry, Vocabulary, byte_order

BYTES = 256
few_letters = st.dictionaries(
    st.text("ab", min_size=1, max_size=12), st.integers(1, 9), min_size=1, max_size=8
)
more_letters = st.dictionaries(
    st.text("abcde", min_size=1, max_size=9), st.integers(1, 30), min_size=1, max_size=30
)


def learned(words: dict[str, int], budget: int, **options) -> list[bytes]:
    counts = {word.encode(): count for word, count in words.items()}
    vocabulary = extend(Vocabulary(), Words.of(counts), budget, stage="test", **options)
    return vocabulary.texts[BYTES:]


def learned_by_hf(words: dict[str, int], budget: int, min_frequency: int = 2) -> list[bytes]:
    """Entries of ``BpeTrainer`` fed each word as often as it counts; fewer than the budget if it finds no more."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\0"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=BYTES + budget,
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(("\0".join([word] * count) for word, count in words.items()), trainer)
    entries = json.loads(tokenizer.to_str())["model"]["vocab"]
    by_character = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), byte_order(), strict=True))
    ordered = sorted(entries, key=entries.get)
    return [bytes(by_character[character] for character in entry) for entry in ordered[BYTES:]]


@settings(max_examples=300, deadline=None)
@given(few_letters | more_letters, st.integers(1, 3))
def test_from_bytes_the_entries_are_those_of_hugging_faces_trainer(words, min_frequency):
    expected = learned_by_hf(words, 60, min_frequency)
    assert learned(words, len(expected), min_frequency=min_frequency) == expected
    if len(expected) < 60:
        with pytest.raises(VocabularyError, match=f"only {len(expected)} "):
            learned(words, len(expected) + 1, min_frequency=min_frequency)
