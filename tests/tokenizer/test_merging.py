"""Merging equals Hugging Face's trainer, goes on from any vocabulary, and keeps the rules of Scaffold-BPE."""

import json
import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tests.tokenizer.helpers import texts
from tokenizer.encoding.encoder import Encoder
from tokenizer.errors import VocabularyError
from tokenizer.learning import merging
from tokenizer.learning.merging import extend
from tokenizer.learning.table import count_words
from tokenizer.learning.words import Words
from tokenizer.vocabulary import Entry, Vocabulary, byte_order

BYTES = 256


@cache
def real() -> Words:
    return count_words(texts(60))


def corpora(letters: str, length: int, count: int, words: int) -> st.SearchStrategy[dict[bytes, int]]:
    word = st.text(letters, min_size=1, max_size=length).map(str.encode)
    return st.dictionaries(word, st.integers(1, count), min_size=1, max_size=words)


CORPORA = corpora("ab", 12, 9, 8) | corpora("abc", 9, 4, 12) | corpora("abcde", 8, 30, 30)


def learned_by_hf(words: Mapping[bytes, int], budget: int, min_frequency: int = 2) -> list[bytes]:
    """Entries of ``BpeTrainer`` fed each word as often as it counts; fewer than asked if it finds no more."""
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
    tokenizer.train_from_iterator(
        ("\0".join([word.decode()] * count) for word, count in words.items()), trainer
    )
    entries = json.loads(tokenizer.to_str())["model"]["vocab"]
    by_character = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), byte_order(), strict=True))
    ordered = sorted(entries, key=entries.get)
    return [bytes(by_character[character] for character in entry) for entry in ordered[BYTES:]]


@settings(max_examples=80, deadline=None)
@given(CORPORA, st.integers(1, 3))
def test_from_bytes_the_entries_are_those_of_hugging_faces_trainer(words, min_frequency):
    expected = learned_by_hf(words, 60, min_frequency)
    vocabulary = extend(
        Vocabulary(), Words.of(words), len(expected), stage="only", min_frequency=min_frequency
    )
    assert vocabulary.texts[BYTES:] == expected
    if len(expected) < 60:
        with pytest.raises(VocabularyError, match=f"only {len(expected)} "):
            extend(
                Vocabulary(), Words.of(words), len(expected) + 1, stage="only", min_frequency=min_frequency
            )


def test_from_real_text_the_entries_are_those_of_hugging_faces_trainer():
    words = real()
    assert extend(Vocabulary(), words, 3000, stage="only").texts[BYTES:] == learned_by_hf(dict(words), 3000)


def cut(word: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The rule every encoder follows, spelled out."""
    if word in ranks:
        return [word]
    symbols = [word[index : index + 1] for index in range(len(word))]
    while joins := [
        (ranks[a + b], index) for index, (a, b) in enumerate(pairwise(symbols)) if a + b in ranks
    ]:
        index = min(joins)[1]
        symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]
    return symbols


def joined(symbols: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    made: list[bytes] = []
    for symbol in symbols:
        if made and (made[-1], symbol) == (left, right):
            made[-1] = left + right  # longer than `left`: not joined again
        else:
            made.append(symbol)
    return made


def spelled_out(
    vocabulary: Vocabulary,
    words: Mapping[bytes, int],
    budget: int,
    min_frequency: int = 1,
    scaffold: bool = False,
    barred: Collection[bytes] = (),
) -> list[tuple[bytes, int, bool]]:
    """``extend`` by counting everything anew after every join; stops where no candidate is left."""
    ranks = {text: rank for rank, text in enumerate(vocabulary.texts)}
    counts = dict.fromkeys(ranks, 0)
    scaffolds = {entry.text for entry in vocabulary.entries if entry.scaffold}
    cuts = {word: cut(word, ranks) for word in words}
    goal = len(vocabulary) + budget

    def frequency(text: bytes) -> int:
        return sum(words[word] * symbols.count(text) for word, symbols in cuts.items())

    def candidates() -> list[tuple[int, int, int, int, tuple[bytes, ...]]]:
        found: Counter[tuple[bytes, bytes]] = Counter()
        for word, symbols in cuts.items():
            for pair in pairwise(symbols):
                found[pair] += words[word]
        every = [
            *((-n, 0, ranks[a], ranks[b], (a, b)) for (a, b), n in found.items() if a + b not in barred),
            *((-frequency(text), 1, ranks[text], 0, (text,)) for text in scaffolds),
        ]
        return sorted(candidate for candidate in every if -candidate[0] >= min_frequency)

    while len(ranks) - len(scaffolds) < goal and (queue := candidates()):
        count, parts = -queue[0][0], queue[0][-1]
        made = b"".join(parts)
        if len(parts) == 2:
            cuts = {word: joined(symbols, *parts) for word, symbols in cuts.items()}
        if made not in ranks:
            ranks[made], counts[made] = len(ranks), count
        scaffolds.discard(made)
        threshold = -queue[0][0] if (queue := candidates()) else 0
        for part in set(parts) if scaffold and len(parts) == 2 else ():
            if (
                ranks[part] >= len(vocabulary.entries)
                and part not in scaffolds
                and frequency(part) < threshold
            ):
                scaffolds.add(part)
    return [(text, counts[text], text in scaffolds) for text in ranks]


def described(vocabulary: Vocabulary) -> list[tuple[bytes, int, bool]]:
    return [(entry.text, entry.count, entry.scaffold) for entry in vocabulary.entries]


@settings(max_examples=80, deadline=None)
@given(
    CORPORA,
    st.lists(
        st.tuples(st.text("abc", min_size=2, max_size=5), st.booleans()), max_size=8, unique_by=lambda e: e[0]
    ),
    st.sets(st.text("abc", min_size=2, max_size=3).map(str.encode), max_size=2),
    st.booleans(),
    st.integers(0, 25),
)
def test_from_any_vocabulary_learning_follows_the_rules_spelled_out(
    words, given_entries, barred, scaffold, budget
):
    """Also from entries whose parts are missing, which others must then make again."""
    start = Vocabulary().extended([Entry(text.encode(), "base", 0, mark) for text, mark in given_entries])
    expected = spelled_out(start, words, budget, 1, scaffold, barred)
    found = sum(not mark for *_, mark in expected) - len(start)
    options = {"stage": "next", "min_frequency": 1, "scaffold": scaffold, "barred": barred}
    if found < budget:
        with pytest.raises(VocabularyError, match=f"only {found} "):
            extend(start, Words.of(words), budget, **options)
    else:
        assert described(extend(start, Words.of(words), budget, **options)) == expected


def test_a_stage_keeps_every_earlier_entry_and_names_its_own():
    first = extend(Vocabulary(), Words.of({b"banana": 9, b"bandana": 5}), 4, stage="fruit")
    # Rare by now, but earlier: no entry of the first stage may become a scaffold in the second.
    second = extend(first, Words.of({b"bananas": 2, b"import": 7}), 2, stage="code", scaffold=True)
    assert second.entries[: len(first.entries)] == first.entries
    assert {entry.stage for entry in first.entries[BYTES:]} == {"fruit"}
    assert {entry.stage for entry in second.entries[len(first.entries) :]} == {"code"}
    assert len(second) == len(first) + 2


@pytest.mark.parametrize("scale", [1000, 1 << 20])
def test_counts_are_occurrences_whatever_the_scale(scale: int):
    words = real()
    scaled = replace(words, counts=words.counts * scale, scale=scale)
    for scaffold in (False, True):
        options = {"stage": "only", "scaffold": scaffold, "min_frequency": 3}
        assert extend(Vocabulary(), scaled, 500, **options) == extend(Vocabulary(), words, 500, **options)


def test_counts_are_exact_up_to_the_largest():
    words = {b"abab": 1 << 40, b"xy": (1 << 60) + 1, b"cdcdcd": (1 << 58) + 1}
    vocabulary = extend(Vocabulary(), Words.of(words), 4, stage="only")
    assert described(vocabulary) == spelled_out(Vocabulary(), words, 4)


def test_every_symbol_may_stand_before_one_pair():
    """Scratch for neighbours is as long as the vocabulary; here all of it is used, and joining goes on."""
    words = {bytes([byte]) + b"abcf": 10 for byte in range(256)}
    words |= {b"ababc": 5, b"abcabc": 5, b"\xff\xffabcf": 3, b"cf": 1, b"de": 500}
    vocabulary = extend(Vocabulary(), Words.of(words), 2, stage="only", scaffold=True)
    assert described(vocabulary) == spelled_out(Vocabulary(), words, 2, scaffold=True)
    assert vocabulary.texts[BYTES:] == [b"ab", b"abc", b"abcf", b"de"]


ARIZONA = {b"Arizona": 90, b"zona": 10, b"Nevada": 50, b"tuna": 40, b"nature": 30}


def test_a_scaffold_is_never_an_id_and_comes_apart_without_loss():
    plain = extend(Vocabulary(), Words.of(ARIZONA), 4, stage="only")
    scaffolded = extend(Vocabulary(), Words.of(ARIZONA), 4, stage="only", scaffold=True)
    assert b"zona" in plain.token_bytes
    assert b"zona" in scaffolded.texts
    assert b"zona" not in scaffolded.token_bytes
    assert b"Arizona" in scaffolded.token_bytes
    assert len(scaffolded) == len(plain) == BYTES + 4
    encoder = Encoder(scaffolded, threads=1)
    assert len(encoder.encode("Arizona")) == 1
    ids = encoder.encode("zona")
    assert len(ids) > 1
    assert encoder.decode(ids) == b"zona"


def test_no_entry_is_left_that_nothing_uses():
    """What Scaffold-BPE is for; plain merging leaves such entries on the same words."""

    def unused(vocabulary: Vocabulary) -> list[bytes]:
        encoder = Encoder(vocabulary, threads=1)
        used = {index for word in ARIZONA for index in encoder.encode(word.decode()).tolist()}
        return [
            text for index, text in enumerate(vocabulary.token_bytes) if index not in used and len(text) > 1
        ]

    assert unused(extend(Vocabulary(), Words.of(ARIZONA), 6, stage="only"))
    assert not unused(extend(Vocabulary(), Words.of(ARIZONA), 6, stage="only", scaffold=True))


def test_a_scaffold_whose_turn_comes_is_an_entry_again():
    words = Words.of({**ARIZONA, b"zona": 35})
    few = extend(Vocabulary(), words, 4, stage="only", scaffold=True)
    assert b"zona" not in few.token_bytes
    assert b"zona" in extend(Vocabulary(), words, 6, stage="only", scaffold=True).token_bytes
    later = extend(few, Words.of({b"zona": 9, b"zonal": 9}), 1, stage="later")
    assert b"zona" in later.token_bytes
    assert later.texts == few.texts


def test_scaffolds_of_real_text_fill_the_budget_and_give_the_text_back():
    vocabulary = extend(Vocabulary(), real(), 3000, stage="only", scaffold=True)
    assert len(vocabulary) == BYTES + 3000
    assert not vocabulary.scaffolds[:BYTES].any()
    assert 0.02 < vocabulary.scaffolds.mean() < 0.25  # the paper: 6% of 32k, of far more text
    encoder = Encoder(vocabulary, threads=1)
    for text in texts(4):
        assert encoder.decode(encoder.encode(text)).decode() == text


def test_little_room_at_the_start_changes_nothing(monkeypatch):
    words = real()
    expected = extend(Vocabulary(), words, 2000, stage="only", scaffold=True)
    compacted = []
    monkeypatch.setattr(merging, "LEAST_PAIRS", 1)
    monkeypatch.setattr(merging, "CHUNK", 100)
    compact = merging.compact
    monkeypatch.setattr(merging, "compact", lambda *given: compacted.append(1) or compact(*given))
    assert extend(Vocabulary(), words, 2000, stage="only", scaffold=True) == expected
    assert compacted


def test_long_words_take_no_longer_than_short_ones_of_the_same_text():
    """Each join looking at all of a word again would take hours."""
    letters = random.Random(0).choices(b"abcdefghijklmnop", k=400_000)
    vocabulary = extend(
        Vocabulary(), Words.of({bytes(letters): 1, b"-" * 1_000_000: 1, b"x" * 999: 3}), 4000, stage="only"
    )
    runs = [len(text) for text in vocabulary.texts[BYTES:] if set(text) == {ord("-")}]
    assert runs[:5] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("words", "found"),
    [({}, 0), ({b"": 5}, 0), ({b"a": 1000}, 0), ({b"ab": 1}, 0), ({b"ab": 2}, 1), ({b"aaaa": 2, b"b": 9}, 2)],
)
@pytest.mark.parametrize("scaffold", [False, True])
def test_too_few_pairs_are_an_error_that_says_how_many_there_are(words, found, scaffold):
    with pytest.raises(VocabularyError, match=f"'tiny' was to learn 9 .* only {found} .*seen 2 times"):
        extend(Vocabulary(), Words.of(words), 9, stage="tiny", scaffold=scaffold)


def test_a_budget_no_vocabulary_can_hold_is_refused_at_once():
    with pytest.raises(VocabularyError, match=r"100,000,000 entries behind 256, .*Lower "):
        extend(Vocabulary(), Words.of({b"ab": 2}), 100_000_000, stage="huge")


def test_no_pair_is_more_frequent_than_any_number():
    with pytest.raises(VocabularyError, match="only 0 "):
        extend(Vocabulary(), Words.of({b"ab": 1 << 60}), 1, stage="rare", min_frequency=1 << 70)


def test_a_budget_of_nothing_changes_nothing():
    assert extend(Vocabulary(), Words.of({b"abab": 9}), 0, stage="none") == Vocabulary()


def test_progress_is_reported_up_to_the_budget():
    steps: list[tuple[int, int]] = []
    extend(Vocabulary(), real(), 1500, stage="a", progress=lambda *step: steps.append(step))
    assert steps == sorted(steps)
    assert len(steps) > 1
    assert steps[-1] == (1500, 1500)
