"""Finding an entry by its bytes, as kernels: a hash table of entries whose bytes lie anywhere in one text."""

import numpy as np
from numpy.typing import NDArray

from tokenizer.kernels import njit
from tokenizer.learning.pairs import inner


@inner
def named(
    text: NDArray[np.uint8],
    names: NDArray[np.int32],
    origins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    at: int,
    length: int,
) -> int:
    """Which entry ``text[at : at + length]`` is, or -1."""
    mask = len(names) - 1
    slot = _hash(text, at, length) & mask
    while names[slot] >= 0:
        name = np.int64(names[slot])
        if lengths[name] == length:
            same = 0
            while same < length and text[origins[name] + same] == text[at + same]:
                same += 1
            if same == length:
                return name
        slot = (slot + 1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def enter_names(
    text: NDArray[np.uint8],
    names: NDArray[np.int32],
    origins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    count: int,
) -> None:
    """Make the first so many entries known by their bytes."""
    for name in range(count):
        enter_name(text, names, origins, lengths, name)


@inner
def enter_name(
    text: NDArray[np.uint8],
    names: NDArray[np.int32],
    origins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    name: int,
) -> None:
    """Make an entry known by its bytes."""
    mask = len(names) - 1
    slot = _hash(text, origins[name], lengths[name]) & mask
    while names[slot] >= 0:
        slot = (slot + 1) & mask
    names[slot] = name


@inner
def _hash(text: NDArray[np.uint8], at: int, length: int) -> int:
    """FNV-1a, its high bits folded in."""
    value = np.uint64(0xCBF29CE484222325)
    for index in range(at, at + length):
        value = (value ^ np.uint64(text[index])) * np.uint64(0x100000001B3)
    return np.int64((value ^ (value >> np.uint64(32))) & np.uint64(0x7FFFFFFF))
