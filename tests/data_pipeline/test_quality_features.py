import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config.quality import ScorerConfig
from data_pipeline.quality.features import (
    _BASE,
    SHAPES,
    Features,
    concatenate,
    excerpt_bytes,
    featurize,
)

CONFIG = ScorerConfig(buckets=1 << 16)
MASK = (1 << 64) - 1
TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=200), min_size=1, max_size=6)


def mix(value):
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ (value >> 33)) * factor & MASK
    return value ^ (value >> 33)


def plain_ngrams(text, config):
    """What the module's description says, one token at a time with Python's integers."""
    raw = excerpt_bytes(text, config.max_bytes)
    tokens = re.findall(rb"[A-Za-z0-9_\x80-\xff]+|[^A-Za-z0-9_\x80-\xff\x00-\x20\x7f]", raw)
    hashes = []
    for token in tokens:
        token = re.sub(rb"[0-9]", b"0", bytes(b + 32 if 65 <= b <= 90 else b for b in token))
        hashes.append(mix(sum((byte + 1) * pow(_BASE, i, 1 << 64) for i, byte in enumerate(token)) & MASK))
    found, gram = Counter(), hashes
    for size in range(1, config.word_ngrams + 1):
        if size > 1:
            gram = [mix(gram[i] * 3 + hashes[i + size - 1] & MASK) for i in range(len(hashes) - size + 1)]
        found.update(value >> (64 - config.buckets.bit_length() + 1) for value in gram)
    return found


@settings(deadline=None)
@given(TEXTS, st.integers(1, 3))
def test_the_vectorised_hashes_are_those_of_a_plain_loop(texts, ngrams):
    config = ScorerConfig(buckets=1 << 16, word_ngrams=ngrams, max_bytes=256)
    features = featurize(texts, config)
    for row, text in enumerate(texts):
        span = slice(features.offsets[row], features.offsets[row + 1])
        assert dict(zip(features.buckets[span].tolist(), features.counts[span].tolist())) == plain_ngrams(
            text, config
        )
        assert (np.diff(features.buckets[span]) > 0).all()


@settings(deadline=None)
@given(TEXTS)
def test_a_document_does_not_see_its_neighbours(texts):
    together = featurize(texts, CONFIG)
    apart = concatenate([featurize([text], CONFIG) for text in texts])
    for name in vars(together):
        assert np.array_equal(getattr(together, name), getattr(apart, name)), name
    backwards = together.take(np.arange(len(texts))[::-1])
    assert same(backwards, featurize(texts[::-1], CONFIG))


def same(first: Features, second: Features) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


@pytest.mark.parametrize(
    "text", ["", " ", "\x00\x00", "\n\n", "\ud800 lone", "a" * 100_000, "é" * 10, "\u202e", "}{" * 5]
)
def test_odd_texts_give_finite_features(text):
    features = featurize([text, "plain words.", text], CONFIG)
    assert np.isfinite(features.shape).all()
    assert features.shape.shape == (3, len(SHAPES))
    assert same(features.take(np.array([0])), features.take(np.array([2])))


def test_numbers_and_case_are_folded():
    folded = featurize(["In 1984, Paris", "in 2001, paris"], CONFIG)
    first, second = (folded.take(np.array([row])) for row in (0, 1))
    assert np.array_equal(first.buckets, second.buckets)
    assert not np.array_equal(first.shape, second.shape)  # upper case is still seen there


@given(st.text(max_size=3000), st.integers(256, 2000))
def test_an_excerpt_is_the_text_or_within_the_limit(text, limit):
    raw = text.encode("utf-8", "replace")
    cut = excerpt_bytes(text, limit)
    if len(raw) <= limit:
        assert cut == raw
    else:
        assert len(cut) <= limit + 2
        assert cut.startswith(raw[: limit // 2])
        assert cut.endswith(raw[-(limit // 4) :])


def test_a_huge_document_is_read_at_three_places_only():
    huge = "start " + "x" * 50_000_000 + " middle " * 20 + "y" * 50_000_000 + " end"
    cut = excerpt_bytes(huge, 1000)
    assert len(cut) <= 1002
    assert cut.startswith(b"start")
    assert b"middle" in cut
    assert cut.endswith(b"end")
