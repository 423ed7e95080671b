import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.config import DedupConfig
from data_pipeline.dedup.minhash import band_keys, batches, multipliers, signatures, similarity

CONFIG = DedupConfig()


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[at : at + n]) for at in range(max(1, len(words) - n + 1))} if words else set()


def jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def letters(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnop", k=6))


def edited(words: list[str], changes: int, rng: random.Random) -> list[str]:
    words = list(words)
    for place in rng.sample(range(len(words)), changes):
        words[place] = letters(rng)
    return words


def test_hashes_are_those_that_kept_indices_were_made_with():
    """Fails when words, shingles or hashes change: then raise HASHES, and kept indices will be refused."""
    text = "The naïve Fox — 日本語 jumps over 12 lazy dogs, and x_1 runs; again: the naïve fox jumps."
    found, present = signatures([text, "one word", "", "Ünïcode １２"], CONFIG)
    assert present.tolist() == [True, True, False, True]
    assert multipliers(3).tolist() == [0x5692161D, 0xDBD23897, 0x1E535EED]
    assert found[0, :4].tolist() == [494056563, 177452823, 754431206, 283108945]
    assert found[1, :2].tolist() == [717615779, 3570160041]
    assert found[3, :2].tolist() == [2169745855, 52808189]
    assert band_keys(found, CONFIG)[:2, 0].tolist() == [3788887766107630784, 5658502958208789345]


def test_the_definition_in_plain_python_gives_the_same():
    from data_pipeline.cleaning.ngrams import gram_hashes, split, word_hashes

    text = "some words that are said twice: some words that are said"
    grams = gram_hashes(word_hashes(split(text)), 5).tolist()
    expected = [min((gram >> 32) * a % 2**32 for gram in grams) for a in multipliers(112).tolist()]
    assert signatures([text], CONFIG)[0][0].tolist() == expected


@given(st.lists(st.text(alphabet="ab é日\n.", max_size=30), max_size=8), st.integers(1, 6))
def test_a_text_has_its_signature_in_any_company(texts, n):
    config = DedupConfig(n_grams=n, num_buckets=2, hashes_per_bucket=3)
    together, present = signatures(texts, config)
    for row, text in enumerate(texts):
        alone, has_words = signatures([text], config)
        assert together[row].tolist() == alone[0].tolist()
        assert present[row] == has_words[0] == any(c not in " \n." for c in text)


def test_batches_hold_every_text_once_and_ascii_apart():
    texts = ["a" * 600_000, "é" * 600_000, "b" * 600_000, "c", "ü"]
    found = list(batches(texts))
    assert sorted(row for rows in found for row in rows) == list(range(5))
    assert all(len({texts[row].isascii() for row in rows}) == 1 for rows in found)
    assert all(sum(len(texts[row]) for row in rows) <= 1_000_000 for rows in found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Case, and (punctuation)!", "case and PUNCTUATION"),
        ("a b\tc\n\nd e f g", "a b c d e f g"),
        ("Café naïve", "cafe naive"),
        ("ｆｕｌｌ width", "full width"),
        ("日本語。テキスト", "日本語 テキスト"),
        ("word", "Word."),
    ],
)
def test_what_does_not_count(one, other):
    found, present = signatures([one, other], CONFIG)
    assert present.all()
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [("word", "other"), ("1 2 3", "1 2 4"), ("日本語", "日本話"), ("a b", "b a"), ("ab", "a b")],
)
def test_what_does_count(one, other):
    found, _ = signatures([one, other], CONFIG)
    assert similarity(*found.astype(np.uint8)[:, None]) < 0.1


@pytest.mark.parametrize(("changes", "words"), [(2, 300), (10, 300), (30, 300), (1, 40)])
def test_estimates_and_bands_are_as_the_formulas_say(changes, words):
    """Over 300 pairs of real-looking texts against exact Jaccard similarity; errors of 4 sigma fail."""
    rng = random.Random(changes)
    expected, found, in_band, likely = [], [], [], []
    for _ in range(300):
        one = [letters(rng) for _ in range(words)]
        pair = [" ".join(one), " ".join(edited(one, changes, rng))]
        exact = jaccard(*(shingles(text, CONFIG.n_grams) for text in pair))
        minima, _ = signatures(pair, CONFIG)
        expected.append(exact)
        found.append(similarity(*minima.astype(np.uint8)[:, None])[0])
        keys = band_keys(minima, CONFIG)
        in_band.append((keys[:, 0] == keys[:, 1]).any())
        likely.append(1 - (1 - exact**CONFIG.hashes_per_bucket) ** CONFIG.num_buckets)
    errors = np.array(found) - np.array(expected)
    sigma = np.sqrt(np.mean([j * (1 - j) for j in expected]) / 112)
    assert abs(errors.mean()) < 4 * sigma / np.sqrt(300)
    assert 0.8 * sigma < errors.std() < 1.25 * sigma
    spread = np.sqrt(sum(p * (1 - p) for p in likely))
    assert abs(sum(in_band) - sum(likely)) < 4 * spread + 1
