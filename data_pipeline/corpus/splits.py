"""Which documents are held out for validation: those whose text has a hash below a threshold per source.

Parts of one text share its hash and so stay together. The hashes of a source's documents lie in files, one
per run of documents, and are never in memory together.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

BUCKET_BITS = 16


def hold_out_hash(whole: str) -> int:
    """First 64 bits of a SHA-256 of the name of the text a document was cut from."""
    return int.from_bytes(hashlib.sha256(f"valid\0{whole}".encode()).digest()[:8], "big")


def hold_out_below(files: Sequence[Path], fraction: float) -> int:
    """The bound under which a document's hash puts it into validation.

    At least ``fraction`` of the documents are held out (rounded up), as few whole texts as that takes; the
    text with the largest hash always stays for training.

    Args:
        files: ``.npy`` files of uint64 hashes, one number per document.
        fraction: of the documents, 0 to 1.
    """
    counts = np.zeros(1 << BUCKET_BITS, dtype=np.int64)
    largest = 0
    for path in files:
        hashes = np.load(path)
        if len(hashes):
            counts += np.bincount(bucket(hashes), minlength=len(counts))
            largest = max(largest, int(hashes.max()))
    wanted = math.ceil(counts.sum() * fraction)
    if not wanted:
        return 0
    reached = np.cumsum(counts)
    place = int(np.searchsorted(reached, wanted))  # the bucket the bound lies in
    inside = np.sort(np.concatenate([_in_bucket(np.load(path), place) for path in files]))
    last = int(inside[wanted - (int(reached[place - 1]) if place else 0) - 1])
    return min(last + 1, largest)


def bucket(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def _in_bucket(hashes: np.ndarray, place: int) -> np.ndarray:
    return hashes[bucket(hashes) == place]
