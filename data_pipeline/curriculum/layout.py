"""How the samples of several sources are interleaved: exact integer shares, spread evenly, countable without
iterating.

A phase has ``counts[k]`` samples of source ``k``, ``S`` in all, cut into ``n`` near-equal blocks. Up to block
boundary ``x``, the first ``k`` sources together hold ``floor(P_k * x / S)`` samples, where ``P_k`` is the sum
of their counts. So at each boundary every source is less than one sample away from its exact share (the
difference of two floors), and at the end it is exact. Blocks are made large enough that each source averages
at least one sample per block; then those differences never decrease from boundary to boundary, which is what
makes them a layout at all.

Inside a block of ``b`` samples, position ``p`` shows the value ``(a * p + c) mod b``: a rank-1 lattice whose
multiplier ``a`` lies near ``b`` over the golden ratio, with a seeded shift ``c``. Each source owns an
interval of values as long as its share of the block. Such a lattice fills every interval evenly (better than
a random order, whose counts stray by the square root of their size), and how many of the first ``p`` values
fall into an interval is a sum of floors with a closed recursion. So the number of samples any source has
among the first ``g`` is *arithmetic*: it needs no pass over the stream, and the samples of a source are met
in their own order, so that stopping anywhere leaves a clean cursor.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from math import gcd, isqrt

import numpy as np
from numpy.typing import NDArray

from data_pipeline.permutation import mix


def apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Divide ``total`` among weights by largest remainder (Hamilton's method); ties go to the earlier weight.

    Returns:
        integers that add up to ``total``, each less than one away from its exact share.

    Raises:
        ValueError: a weight is negative, or all are zero.
    """
    weight_sum = sum(weights, Fraction(0))
    if any(weight < 0 for weight in weights) or weight_sum == 0:
        raise ValueError("weights must not be negative, and at least one must be above zero")
    exact = [total * weight / weight_sum for weight in weights]
    shares = [int(share) for share in exact]  # int() floors: shares are not negative
    order = sorted(range(len(weights)), key=lambda index: (shares[index] - exact[index], index))
    for index in order[: total - sum(shares)]:
        shares[index] += 1
    return shares


def floor_sum(count: int, modulus: int, factor: int, shift: int) -> int:
    """Sum of ``(factor * i + shift) // modulus`` over ``i`` in ``range(count)``, in O(log modulus) steps.

    The Euclid-like recursion on lattice points under a line; ``factor`` and ``shift`` must not be negative.
    """
    total = 0
    while count > 0:
        total += (factor // modulus) * (count * (count - 1) // 2) + (shift // modulus) * count
        factor, shift = factor % modulus, shift % modulus
        height = factor * count + shift
        if height < modulus:
            break
        count, shift, factor, modulus = height // modulus, height % modulus, modulus, factor
    return total


def count_below(count: int, modulus: int, factor: int, shift: int, threshold: int) -> int:
    """How many ``i`` in ``range(count)`` have ``(factor * i + shift) % modulus < threshold <= modulus``."""
    lower = floor_sum(count, modulus, factor, shift)
    return count + lower - floor_sum(count, modulus, factor, shift + modulus - threshold)


def largest_quotient(numerator: int, denominator: int) -> int:
    """The largest partial quotient of ``numerator / denominator`` below 1; small: evenly spread multiples."""
    numerator, denominator = denominator, numerator % denominator
    largest = 0
    while denominator:
        largest = max(largest, numerator // denominator)
        numerator, denominator = denominator, numerator % denominator
    return largest


@lru_cache(maxsize=1024)
def lattice_factor(modulus: int) -> int:
    """A multiplier coprime to ``modulus`` whose multiples fill every interval evenly: near the golden
    section, and of its
    neighbours the one with the smallest largest partial quotient (ties: the nearest, then the smaller)."""
    golden = (isqrt(5 * modulus * modulus) - modulus) // 2
    near = range(max(1, golden - 32), golden + 33)
    coprime = [factor for factor in near if gcd(factor, modulus) == 1]
    return min(coprime, key=lambda factor: (largest_quotient(factor, modulus), abs(factor - golden), factor))


class Layout:
    """The order of one phase's samples by source. A pure function of its arguments; nothing is stored per
    sample.

    Args:
        counts: samples of each source, all above zero.
        block: the smallest block, in samples; enlarged where a source would have less than one sample per
            block.
        key: seeds the lattice shift of each block.
    """

    def __init__(self, counts: Sequence[int], block: int, key: int) -> None:
        if not counts or min(counts) < 1:
            raise ValueError(f"every source of a layout needs at least one sample, got {list(counts)}")
        self.counts = tuple(counts)
        self.prefix = (0, *accumulate(self.counts))
        self.total = self.prefix[-1]
        self.key = key
        smallest = max(block, -(-self.total // min(self.counts)))
        self.blocks = max(1, self.total // smallest)

    def boundary(self, block: int) -> int:
        """First position of a block."""
        return block * self.total // self.blocks

    def block_of(self, position: int) -> int:
        """The block that holds a position: the last one whose boundary is at or before it."""
        return -(-(position + 1) * self.blocks // self.total) - 1

    def _before(self, index: int, boundary: int) -> int:
        """Samples of the first ``index`` sources before a block boundary."""
        return self.prefix[index] * boundary // self.total

    def _block(self, position: int) -> tuple[int, int, int, int, int]:
        """``(start, end, size, factor, shift)`` of the block that holds a position."""
        number = self.block_of(position)
        start, end = self.boundary(number), self.boundary(number + 1)
        size = end - start
        return start, end, size, lattice_factor(size), mix(self.key ^ mix(number)) % size

    def counts_before(self, position: int) -> list[int]:
        """Samples of each source among the first ``position`` samples.

        Raises:
            IndexError: the position is not in ``range(total + 1)``.
        """
        if not 0 <= position <= self.total:
            raise IndexError(f"position {position} is outside a phase of {self.total} samples")
        if position == self.total:
            return list(self.counts)
        start, end, size, factor, shift = self._block(position)
        reached = []
        for index in range(len(self.prefix)):
            before = self._before(index, start)
            threshold = self._before(index, end) - before
            reached.append(before + count_below(position - start, size, factor, shift, threshold))
        return [after - before for before, after in pairwise(reached)]

    def locate(self, position: int) -> tuple[int, int]:
        """Which source the sample at a position comes from, and its number among that source's samples of the
        phase.

        Raises:
            IndexError: the position is not in ``range(total)``.
        """
        if not 0 <= position < self.total:
            raise IndexError(f"position {position} is outside a phase of {self.total} samples")
        start, end, size, factor, shift = self._block(position)
        value = (factor * (position - start) + shift) % size
        sources = range(1, len(self.prefix))
        index = bisect_right(sources, value, key=lambda k: self._before(k, end) - self._before(k, start))
        return index, self._reached(index, position, start, end, size, factor, shift)

    def locate_range(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``locate`` of the positions ``first .. first + count - 1``, for about the price of one per source.

        Within a block, values follow from one another by adding, and the samples of a source by counting, so
        that only a source's first sample in each block needs the floor sums.

        Returns:
            sources and their sample numbers, ``[count]`` each.

        Raises:
            IndexError: a position is not in ``range(total)``.
        """
        if count < 0 or not 0 <= first <= first + count <= self.total:
            raise IndexError(f"{count} positions from {first} are outside a phase of {self.total} samples")
        indices, numbers = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        position = first
        while position < first + count:
            start, end, size, factor, shift = self._block(position)
            stop = min(end, first + count)
            steps = np.arange(stop - position, dtype=np.int64)
            # the sum stays in 64 bits for any block below 2^31 samples; larger ones use Python's integers
            begin = (factor * (position - start) + shift) % size
            if size < 1 << 31:
                values = (begin + steps * factor) % size
            else:
                values = np.array([(begin + step * factor) % size for step in range(len(steps))])
            bounds = [self._before(k, end) - self._before(k, start) for k in range(1, len(self.prefix))]
            index = np.searchsorted(np.array(bounds), values, side="right")
            order = np.argsort(index, kind="stable")
            grouped = index[order]
            firsts = np.flatnonzero(np.diff(grouped, prepend=-1))
            number = np.empty(len(steps), dtype=np.int64)
            for begins, ends in pairwise([*firsts.tolist(), len(grouped)]):
                source = int(grouped[begins])
                reached = self._reached(source, position, start, end, size, factor, shift)
                number[order[begins:ends]] = reached + np.arange(ends - begins)
            indices[position - first : stop - first] = index
            numbers[position - first : stop - first] = number
            position = stop
        return indices, numbers

    def _reached(
        self, index: int, position: int, start: int, end: int, size: int, factor: int, shift: int
    ) -> int:
        """Samples of one source before a position, given the position's block."""
        low, high = self._before(index, start), self._before(index + 1, start)
        low_cut, high_cut = self._before(index, end) - low, self._before(index + 1, end) - high
        inside = [count_below(position - start, size, factor, shift, cut) for cut in (low_cut, high_cut)]
        return high - low + inside[1] - inside[0]

    def position(self, index: int, number: int) -> int:
        """Where a source's sample ``number`` stands: the inverse of ``locate``, by bisection.

        Raises:
            IndexError: the source has no such sample in this phase.
        """
        if not 0 <= number < self.counts[index]:
            raise IndexError(
                f"source {index} has {self.counts[index]} samples in this phase, not {number + 1}"
            )
        positions = range(self.total)

        def reached(position: int) -> int:  # samples of the source up to and including the position
            return self._reached(index, position, *self._block(position)) + (
                self.locate(position)[0] == index
            )

        return bisect_right(positions, number, key=reached)
