"""A vocabulary as this project keeps it: entries in rank order, each with its pedigree.

The order of the entries is all that encoding needs. A pre-token that is an entry becomes that entry; any other
is cut into bytes, and of all neighbours whose bytes together are an entry, the leftmost with the lowest rank
are joined, until none are left (tiktoken's rule). Which pair an entry was learned from does not matter, so a
vocabulary can be pruned, extended and begun from a published one.

Scaffolds (Scaffold-BPE, arXiv 2404.17808) are entries that encoding may pass through but never returns: they
have a rank and no id.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tokenizer.config import BYTES


def byte_order() -> list[int]:
    """The first 256 entries: printable bytes first, then the others, as GPT-2, tiktoken and Hugging Face."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*printable, *(byte for byte in range(256) if byte not in set(printable))]


@dataclass(frozen=True)
class Entry:
    """A learned entry.

    Attributes:
        text: its bytes.
        stage: which stage added it: ``bytes``, ``base``, or a name of the profile.
        count: how often its pair occurred when it was learned, in that stage's weighted words; 0 if unknown.
        scaffold: it serves to build others and has no id.
    """

    text: bytes
    stage: str
    count: int = 0
    scaffold: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """Entries in rank order; the first 256 are the bytes in ``byte_order()``.

    Attributes:
        entries: ``[ranks]``; texts are distinct; the bytes are never scaffolds.
    """

    entries: tuple[Entry, ...] = field(
        default_factory=lambda: tuple(Entry(bytes([byte]), "bytes") for byte in byte_order())
    )

    def __len__(self) -> int:
        """Entries with an id."""
        return len(self.entries) - int(self.scaffolds.sum())

    @cached_property
    def texts(self) -> list[bytes]:
        """Bytes by rank, ``[ranks]``."""
        return [entry.text for entry in self.entries]

    @cached_property
    def scaffolds(self) -> NDArray[np.bool_]:
        """Which ranks are scaffolds, ``[ranks]``."""
        return np.array([entry.scaffold for entry in self.entries], np.bool_)

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """Id of each rank, -1 for scaffolds, ``[ranks]``: ranks counted without scaffolds."""
        ids = np.cumsum(~self.scaffolds, dtype=np.int32) - 1
        return np.where(self.scaffolds, np.int32(-1), ids).astype(np.int32)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Bytes by id, ``[len(self)]``."""
        return [entry.text for entry in self.entries if not entry.scaffold]

    def extended(self, entries: Sequence[Entry]) -> "Vocabulary":
        """With further entries behind."""
        return Vocabulary((*self.entries, *entries))


assert len(byte_order()) == BYTES
