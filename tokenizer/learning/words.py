"""Distinct pre-tokens and how often each occurs: what every vocabulary is learned from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Words:
    """Distinct pre-tokens, sorted by their bytes, with counts.

    Attributes:
        data: the words' bytes end to end, ``[bytes]`` uint8.
        offsets: word ``i`` is ``data[offsets[i] : offsets[i + 1]]``, ``[words + 1]`` int64.
        counts: occurrences of each word times ``scale``, ``[words]`` int64, all above 0.
        scale: what one occurrence counts. 1 where words are as they were counted; more where sources are
            weighted, so that a source may count for a fraction.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    scale: int = 1

    @classmethod
    def of(cls, counts: Mapping[bytes, int]) -> "Words":
        """From a dict, for small cases and tests."""
        words = sorted(word for word, count in counts.items() if count > 0)
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(word) for word in words], out=offsets[1:])
        data = np.frombuffer(b"".join(words), np.uint8)
        return cls(data, offsets, np.array([counts[word] for word in words], np.int64))

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def text_bytes(self) -> int:
        """Bytes of the text these words are cut from, times ``scale``."""
        return int(np.diff(self.offsets) @ self.counts)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        raw = self.data.tobytes()
        for index, count in enumerate(self.counts.tolist()):
            yield raw[self.offsets[index] : self.offsets[index + 1]], count
