"""The Feistel permutation is a bijection of its range, both ways, and its key matters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.permutation import Permutation, derive_key, permutation

KEYS = st.integers(0, 2**64 - 1)


@given(size=st.integers(0, 400), key=KEYS)
def test_is_a_bijection(size: int, key: int) -> None:
    shuffle = Permutation(size, key)
    assert sorted(shuffle(position) for position in range(size)) == list(range(size))


@given(size=st.integers(1, 2**64), key=KEYS, data=st.data())
def test_inverse_undoes_it_at_any_size(size: int, key: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, size - 1))
    shuffle = Permutation(size, key)
    assert 0 <= shuffle(position) < size
    assert shuffle.inverse(shuffle(position)) == position


def test_the_same_labels_give_the_same_order_on_every_machine() -> None:
    """Golden values: a change here silently reorders every corpus and breaks every resume."""
    assert [permutation(10, 7, "wiki", 0)(i) for i in range(10)] == GOLDEN
    assert [permutation(10, 7, "wiki", 1)(i) for i in range(10)] != GOLDEN
    assert derive_key(7, "wiki") != derive_key("7", "wiki") != derive_key(7, "wik", "i")


GOLDEN = [2, 1, 0, 4, 5, 8, 6, 3, 9, 7]


def test_images_of_neighbours_are_spread_evenly() -> None:
    """Chi-square of the first tenth's images over 16 cells; the bound is its 99.99th percentile."""
    size, cells = 100_000, 16
    for key in range(20):
        shuffle = Permutation(size, derive_key(key))
        counts = [0] * cells
        for position in range(size // 10):
            counts[shuffle(position) * cells // size] += 1
        expected = size / 10 / cells
        assert sum((count - expected) ** 2 / expected for count in counts) < 44.3


@pytest.mark.parametrize("position", [-1, 5, 6])
def test_positions_outside_are_refused(position: int) -> None:
    with pytest.raises(IndexError, match=r"not in range\(5\)"):
        Permutation(5, 1)(position)
    with pytest.raises(IndexError, match=r"not in range\(5\)"):
        Permutation(5, 1).inverse(position)


@given(
    size=st.one_of(st.integers(1, 200), st.integers(1, 2**63)), key=st.integers(0, 2**64 - 1), data=st.data()
)
def test_many_at_once_are_the_same_as_one_by_one(size: int, key: int, data: st.DataObject) -> None:
    shuffle = Permutation(size, key)
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=60))
    assert shuffle.many(np.array(positions, dtype=np.int64)).tolist() == [shuffle(p) for p in positions]


def test_many_refuses_a_position_outside() -> None:
    with pytest.raises(IndexError, match="100"):
        Permutation(100, 1).many(np.arange(101))
