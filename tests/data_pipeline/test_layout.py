"""Shares are exact, every prefix is close to proportional, and counting agrees with walking."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.curriculum.layout import Layout, apportion, count_below, floor_sum, lattice_factor

COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=9)
KEYS = st.integers(0, 2**64 - 1)


@given(total=st.integers(0, 10**13), weights=st.lists(st.fractions(0, 1000), min_size=1, max_size=100))
def test_apportion_is_exact_and_within_one(total: int, weights: list[Fraction]) -> None:
    if not any(weights):
        with pytest.raises(ValueError, match="above zero"):
            apportion(total, weights)
        return
    shares = apportion(total, weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights):
        assert abs(share - total * weight / sum(weights)) < 1
        assert weight or not share


def test_apportion_gives_ties_to_the_earlier_weight() -> None:
    assert apportion(5, [Fraction(1), Fraction(1)]) == [3, 2]
    assert apportion(10, [Fraction(1, 3)] * 3) == [4, 3, 3]


@given(
    count=st.integers(0, 60), modulus=st.integers(1, 50), factor=st.integers(0, 99), shift=st.integers(0, 99)
)
def test_floor_sum_equals_the_sum(count: int, modulus: int, factor: int, shift: int) -> None:
    assert floor_sum(count, modulus, factor, shift) == sum(
        (factor * i + shift) // modulus for i in range(count)
    )


@given(data=st.data(), count=st.integers(0, 60), modulus=st.integers(1, 50), factor=st.integers(0, 99))
def test_count_below_equals_counting(data: st.DataObject, count: int, modulus: int, factor: int) -> None:
    threshold, shift = data.draw(st.integers(0, modulus)), data.draw(st.integers(0, 99))
    expected = sum((factor * i + shift) % modulus < threshold for i in range(count))
    assert count_below(count, modulus, factor, shift, threshold) == expected


@given(counts=COUNTS, block=st.integers(1, 80), key=KEYS)
@example(counts=[1, 1], block=1, key=0)
@example(counts=[60, 1, 60], block=7, key=3)
def test_counting_locating_and_inverting_agree_with_a_walk(counts: list[int], block: int, key: int) -> None:
    layout = Layout(counts, block, key)
    seen: Counter[int] = Counter()
    for position in range(layout.total):
        assert layout.counts_before(position) == [seen[index] for index in range(len(counts))]
        index, number = layout.locate(position)
        assert number == seen[index]  # a source's samples are met in their own order: no gaps, no repeats
        assert layout.position(index, number) == position
        seen[index] += 1
    assert layout.counts_before(layout.total) == counts == [seen[index] for index in range(len(counts))]


@given(
    counts=st.lists(st.integers(1, 10**12), min_size=1, max_size=100),
    block=st.integers(1, 10**4),
    data=st.data(),
)
def test_each_boundary_is_within_one_sample_of_proportional(
    counts: list[int], block: int, data: st.DataObject
) -> None:
    layout = Layout(counts, block, 5)
    number = data.draw(st.integers(0, layout.blocks))
    boundary = layout.boundary(number)
    reached = layout.counts_before(boundary)
    assert sum(reached) == boundary
    for count, got in zip(counts, reached):
        assert abs(got - Fraction(count * boundary, layout.total)) < 1
    if number < layout.blocks:
        following = layout.counts_before(layout.boundary(number + 1))
        assert all(after >= before for before, after in zip(reached, following))


def test_a_prefix_inside_a_block_stays_close_too() -> None:
    """One block of 4,096 samples: far closer than a random order, whose counts stray by 20 and more."""
    counts = [2048, 1024, 900, 100, 20, 4]
    layout = Layout(counts, 4096, 11)
    assert layout.blocks == 1
    for position in range(layout.total):
        for count, got in zip(counts, layout.counts_before(position)):
            assert abs(got - count * position / layout.total) < 4


@given(modulus=st.integers(1, 10**12))
def test_the_lattice_visits_every_value(modulus: int) -> None:
    """A multiplier coprime to the modulus generates all residues."""
    factor = lattice_factor(modulus)
    a, b = factor, modulus
    while b:
        a, b = b, a % b
    assert a == 1


@given(counts=COUNTS, block=st.integers(1, 80))
def test_blocks_partition_the_phase(counts: list[int], block: int) -> None:
    layout = Layout(counts, block, 0)
    edges = [layout.boundary(number) for number in range(layout.blocks + 1)]
    assert edges[0] == 0
    assert edges[-1] == layout.total
    for number, (start, end) in enumerate(pairwise(edges)):
        assert end - start - layout.total // layout.blocks in (0, 1)
        assert {layout.block_of(position) for position in range(start, end)} == {number}


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Layout([3, 0], 4, 0)
    layout = Layout([3, 2], 4, 0)
    for call in (lambda: layout.locate(5), lambda: layout.counts_before(6), lambda: layout.position(1, 2)):
        with pytest.raises(IndexError):
            call()
