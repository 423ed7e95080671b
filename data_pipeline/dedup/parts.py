"""Facts about documents as arrays on disk: what a run computes per input file, and what the kept index has.

A part is a folder with one entry per document in each of

    ids.npy      bytes     document id
    order.npy    uint64    precedence: the lower one survives
    digests.npy  uint64    second half of the text's 128-bit digest
    minhash.npy  uint8     [documents, hashes] low bytes of the signature
    roots.npy    int64     number of the survivor of its cluster (kept index only)

and, per band, entries sorted by key: ``<band>.keys.npy`` (uint64) and ``<band>.docs.npy`` (uint32, the
document in this part). The band ``exact`` has the first half of the digest as key. In a kept index only the
leaders of a key are listed. Documents are numbered through all parts, the kept index's first.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.config.dedup import DedupConfig

EXACT_BAND = "exact"
MOST_KEYS = 1 << 64
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


def near_bands(config: DedupConfig) -> tuple[str, ...]:
    """Names of the MinHash bands."""
    return tuple(f"band{number:03d}" for number in range(config.num_buckets))


def save(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an array whole or not at all (scratch: it need not outlive a power cut)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    with open(draft, "wb") as handle:
        np.save(handle, array, allow_pickle=False)
    os.replace(draft, path)


def load(path: Path) -> npt.NDArray[np.generic]:
    """An array as a memory map, so that only what is looked at is read."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # nothing in it: an empty file cannot be mapped
        return np.load(path, allow_pickle=False)


def between(
    folder: Path, key: str, names: Sequence[str], low: int, high: int
) -> list[npt.NDArray[np.generic]]:
    """The rows of some arrays where the key, an array sorted beside them, is in ``low <= key < high``."""
    keys = load(folder / f"{key}.npy")
    start = int(np.searchsorted(keys, np.uint64(low)))
    stop = len(keys) if high == MOST_KEYS else int(np.searchsorted(keys, np.uint64(high)))
    return [np.array(load(folder / f"{name}.npy")[start:stop]) for name in names]


def ranges(total: int, size: int) -> list[tuple[int, int]]:
    """Ranges of 64-bit keys, each with about ``size`` of ``total`` evenly spread ones."""
    number = max(1, -(-total // size))
    return [(MOST_KEYS * at // number, MOST_KEYS * (at + 1) // number) for at in range(number)]


def order_of(ids: Sequence[str], sources: Sequence[str], prefer: Sequence[str]) -> U64:
    """Precedence of documents: sources in the order of preference, within them by a hash of the id.

    It does not depend on files, workers or what other documents there are; and between sources without
    preference, no source loses more than another.
    """
    place = {source: number for number, source in enumerate(prefer)}
    return np.array(
        [
            place.get(source, len(place)) << 56
            | int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())
            for name, source in zip(ids, sources, strict=True)
        ],
        np.uint64,
    )


@dataclass(frozen=True)
class Parts:
    """Several parts under one numbering.

    Attributes:
        folders: of the parts.
        starts: number of each part's first document, and the number after the last; [parts + 1].
        tables: how many of the parts, the first ones, are the kept index.
    """

    folders: tuple[Path, ...]
    starts: tuple[int, ...]
    tables: int

    @property
    def new(self) -> int:
        """Number of the first document that is not in the kept index."""
        return self.starts[self.tables]

    def part_of(self, numbers: I64) -> I64:
        """The part that each document is in."""
        return np.searchsorted(np.asarray(self.starts), numbers, "right") - 1

    def take(self, name: str, numbers: I64) -> npt.NDArray[np.generic]:
        """Rows of an array for some documents, in their order; reads no more than their pages."""
        parts = self.part_of(numbers)
        result: npt.NDArray[np.generic] | None = None
        for part in np.unique(parts):
            array = load(self.folders[part] / f"{name}.npy")
            rows = np.flatnonzero(parts == part)
            found = array[numbers[rows] - self.starts[part]]
            if result is None:
                result = np.zeros((len(numbers), *array.shape[1:]), array.dtype)
            elif found.dtype.itemsize > result.dtype.itemsize:  # longer ids than so far
                result = result.astype(found.dtype)
            result[rows] = found
        return np.zeros(0, np.uint64) if result is None else result

    def precedence(self, numbers: I64) -> tuple[I64, U64, I64]:
        """Sort keys of documents, the strongest first: the kept index in its order, then by ``order``."""
        return np.minimum(self.part_of(numbers), self.tables), self.take("order", numbers), numbers
