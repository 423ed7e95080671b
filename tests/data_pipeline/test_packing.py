"""Packing changes the order of tokens and nothing else, and cuts fewer documents than concatenation."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.tokens.packing import Pieces, best_fit, concatenate, count_cut

LENGTHS = st.one_of(
    st.lists(st.integers(1, 40), max_size=60),
    st.lists(st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 32, 33]), max_size=60),
)


def tokens_of(pieces: Pieces) -> list[tuple[int, int]]:
    """(document, token in it) in the shard's order."""
    rows = zip(pieces.document.tolist(), pieces.start.tolist(), pieces.tokens.tolist())
    return [(document, start + token) for document, start, count in rows for token in range(count)]


@given(lengths=LENGTHS, window=st.sampled_from([1, 8, 16, 24]))
@example(lengths=[5, 3, 2, 4, 3, 3], window=10)  # fits exactly as it is, which best fit does not find
@example(lengths=[], window=8)
def test_every_token_is_there_once_and_no_more_documents_are_cut(lengths: list[int], window: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    packed = best_fit(sizes, window)
    found = tokens_of(packed)
    assert len(found) == sum(lengths)
    assert set(found) == {(document, token) for document, size in enumerate(lengths) for token in range(size)}
    assert all(count > 0 for count in packed.tokens.tolist())
    rows = list(zip(packed.document.tolist(), packed.start.tolist(), packed.tokens.tolist()))
    assert not any((a, b + c) == (d, e) for (a, b, c), (d, e, _) in pairwise(rows))  # these would be one
    cut, plain = count_cut(packed, sizes, window), count_cut(concatenate(sizes), sizes, window)
    assert cut.documents <= plain.documents
    owners: dict[int, set[int]] = {}
    for place, (document, _) in enumerate(found):
        owners.setdefault(document, set()).add(place // window)
    several = {document for document, windows in owners.items() if len(windows) > 1}
    assert cut.documents == len(several)
    assert cut.tokens == sum(lengths[document] for document in several)


@given(lengths=LENGTHS, window=st.sampled_from([8, 16]))
def test_a_long_documents_windows_stand_together_at_the_beginning_of_windows(
    lengths: list[int], window: int
) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    packed = best_fit(sizes, window)
    begins = np.cumsum(packed.tokens) - packed.tokens
    if packed.tokens.tolist() == lengths and np.array_equal(packed.document, np.arange(len(lengths))):
        return  # concatenated, because that cuts no more
    for document in np.flatnonzero(sizes > window).tolist():
        first = np.flatnonzero((packed.document == document) & (packed.start == 0)).item()
        assert begins[first] % window == 0
        assert packed.tokens[first] >= sizes[document] // window * window


def test_documents_are_whole_wherever_they_can_be() -> None:
    """100,000 lengths like a corpus's: all but a few documents that fit a window lie in one; it takes no
    time; and the windows are not in the order of their lengths."""
    sizes = np.maximum(1, np.random.default_rng(0).lognormal(6.3, 1.2, 100_000)).astype(np.int64)
    began = time.perf_counter()
    packed = best_fit(sizes, 4096)
    assert time.perf_counter() - began < 5  # 0.1 s here
    cut, plain = count_cut(packed, sizes, 4096), count_cut(concatenate(sizes), sizes, 4096)
    assert cut.documents - int((sizes > 4096).sum()) < 20
    assert plain.documents > 20_000
    whole = packed.document[packed.tokens == sizes[packed.document]]
    assert abs(np.corrcoef(np.arange(len(whole)), sizes[whole])[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("lengths", "shard"),
    [
        ([6, 3, 8, 5, 2], [(0, 0, 6), (4, 0, 2), (2, 0, 8), (1, 0, 3), (3, 0, 5)]),
        ([19, 5, 4], [(0, 0, 19), (1, 0, 5), (2, 0, 4)]),
        ([5, 5, 5, 5], [(0, 0, 5), (2, 0, 3), (1, 0, 5), (2, 3, 2), (3, 0, 5)]),
    ],
)
def test_small_cases_pack_as_worked_out_by_hand(
    lengths: list[int], shard: list[tuple[int, int, int]]
) -> None:
    packed = best_fit(np.array(lengths), 8)
    assert list(zip(packed.document.tolist(), packed.start.tolist(), packed.tokens.tolist())) == shard
