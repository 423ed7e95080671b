"""Seeded permutations of ``range(n)`` that are computed, not stored: a Feistel network over a rectangle, with
cycle walking.

Position ``x`` is written as a pair ``(left, right)`` in an ``a x b`` rectangle with ``n <= a * b < n + a``.
Each round adds a keyed hash of one half to the other, modulo that half's size, which is undone by subtracting
it: so the network is a bijection of the rectangle whatever the hash is (Black and Rogaway, *Ciphers with
Arbitrary Finite Domains*, CT-RSA 2002, section 5). Results outside ``range(n)`` are fed back in until one
lands inside; the rectangle is so tight that this is rare.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
VECTOR = 16  # fewer items are done one by one, which is quicker than setting numpy up
MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """SplitMix64's finalizer: a 64-bit hash of an integer (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def mix_many(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``mix`` of many values; unsigned arithmetic wraps as the masks in ``mix`` do."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from a seed and labels; different parts give unrelated keys, on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Permutation:
    """A bijection of ``range(size)`` chosen by ``key``. O(1) memory and expected O(1) time, both ways.

    Attributes:
        size: number of positions, at most 2**64.
        key: 64-bit key, from ``derive_key``.
    """

    size: int
    key: int

    def __post_init__(self) -> None:
        left = max(1, isqrt(max(0, self.size - 1)) + 1)
        object.__setattr__(self, "_left", left)
        object.__setattr__(self, "_right", max(1, -(-self.size // left)))
        object.__setattr__(self, "_keys", tuple(mix(self.key ^ mix(number)) for number in range(ROUNDS)))

    def __call__(self, position: int) -> int:
        """Where ``position`` goes.

        Raises:
            IndexError: the position is not in ``range(size)``.
        """
        self._check(position)
        value = self._forward(position)
        while value >= self.size:
            value = self._forward(value)
        return value

    def many(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of many positions goes; the same as calling one by one, vectorised.

        Raises:
            IndexError: a position is not in ``range(size)``.
        """
        if self.size >= 1 << 62 or len(positions) < VECTOR:  # sums of two halves must stay in 64 bits
            return np.array([self(int(position)) for position in positions], dtype=np.int64)
        for end in (positions.min(), positions.max()):
            self._check(int(end))
        values = self._forward_many(positions.astype(np.uint64))
        while (outside := np.flatnonzero(values >= self.size)).size:
            values[outside] = self._forward_many(values[outside])
        return values.astype(np.int64)

    def inverse(self, value: int) -> int:
        """The position that goes to ``value``.

        Raises:
            IndexError: the value is not in ``range(size)``.
        """
        self._check(value)
        position = self._backward(value)
        while position >= self.size:
            position = self._backward(position)
        return position

    def _check(self, value: int) -> None:
        if not 0 <= value < self.size:
            raise IndexError(f"{value} is not in range({self.size})")

    def _forward(self, value: int) -> int:
        right_size: int = self._right  # type: ignore[attr-defined]
        left_size: int = self._left  # type: ignore[attr-defined]
        left, right = divmod(value, right_size)
        keys: tuple[int, ...] = self._keys  # type: ignore[attr-defined]
        for number in range(0, ROUNDS, 2):
            left = (left + mix(right ^ keys[number])) % left_size
            right = (right + mix(left ^ keys[number + 1])) % right_size
        return left * right_size + right

    def _forward_many(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left_size, right_size = np.uint64(self._left), np.uint64(self._right)  # type: ignore[attr-defined]
        left, right = np.divmod(values, right_size)
        keys = np.array(self._keys, dtype=np.uint64)  # type: ignore[attr-defined]
        for number in range(0, ROUNDS, 2):
            left = (left + mix_many(right ^ keys[number]) % left_size) % left_size
            right = (right + mix_many(left ^ keys[number + 1]) % right_size) % right_size
        return left * right_size + right

    def _backward(self, value: int) -> int:
        right_size: int = self._right  # type: ignore[attr-defined]
        left_size: int = self._left  # type: ignore[attr-defined]
        left, right = divmod(value, right_size)
        keys: tuple[int, ...] = self._keys  # type: ignore[attr-defined]
        for number in reversed(range(0, ROUNDS, 2)):
            right = (right - mix(left ^ keys[number + 1])) % right_size
            left = (left - mix(right ^ keys[number])) % left_size
        return left * right_size + right


@lru_cache(maxsize=4096)
def permutation(size: int, *parts: int | str) -> Permutation:
    """The permutation of ``range(size)`` for a seed and labels: ``permutation(n, seed, source, epoch)``."""
    return Permutation(size, derive_key(*parts))
