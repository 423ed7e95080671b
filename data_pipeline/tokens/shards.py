"""Token shards on disk: Megatron's ``.bin``/``.idx`` pair, read memory-mapped, and the sidecar that names
documents.

``x.bin`` holds the tokens of all documents one after another; ``x.idx`` holds a header, then per document its
length and byte offset (the layout of ``megatron.core.datasets.indexed_dataset``, one sequence per document).
Where documents are packed (``packing.py``), some are cut: each *piece* is a sequence of its own, with its own
row in the sidecar, whose ``start`` says where it begins in its document. Reading needs neither torch nor
Megatron.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document boundaries
DTYPES: dict[int, type[np.generic]] = {4: np.int32, 8: np.uint16}
INDEX_FILE = "tokens.json"


def token_dtype(vocab_size: int) -> type[np.generic]:
    """Two bytes per token where every id fits, else four."""
    return np.uint16 if vocab_size <= 65_536 else np.int32


def write_index(
    path: Path, lengths: Sequence[int] | NDArray[np.integer[Any]], dtype: type[np.generic]
) -> None:
    """Write the ``.idx`` of a ``.bin`` whose pieces have these lengths, in tokens."""
    sizes = np.asarray(lengths, dtype=np.int64)
    offsets = np.zeros(len(sizes), dtype=np.int64)
    np.cumsum(sizes[:-1] * np.dtype(dtype).itemsize, out=offsets[1:])
    code = next(code for code, known in DTYPES.items() if known is dtype)
    with open(path, "wb") as handle:
        handle.write(HEADER.pack(MAGIC, 1, code, len(sizes), len(sizes) + 1))
        handle.write(sizes.astype(np.int32).tobytes())
        handle.write(offsets.tobytes())
        handle.write(np.arange(len(sizes) + 1, dtype=np.int64).tobytes())


class TokenShard:
    """One source's tokens of one split, memory-mapped.

    Args:
        prefix: path without ``.bin`` or ``.idx``; its last part is the source.
        domain: what the source counts for, where the artifact's index was read.

    Raises:
        DamagedError: a file is missing, of another format, or not as long as the index says.
    """

    def __init__(self, prefix: Path, domain: str = "") -> None:
        self.prefix, self.domain = prefix, domain
        index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (index, data):
            if not path.is_file():
                raise DamagedError(f"{path} is missing")
        raw = index.read_bytes() if index.stat().st_size < HEADER.size else np.memmap(index, mode="r")
        if len(raw) < HEADER.size:
            raise DamagedError(f"{index} has {len(raw)} bytes, not even a header. It was left as it is.")
        magic, version, code, sequences, _ = HEADER.unpack(bytes(raw[: HEADER.size]))
        if magic != MAGIC or version != 1 or code not in DTYPES:
            raise DamagedError(f"{index} is not a token index this version reads. It was left as it is.")
        expected = HEADER.size + sequences * 12 + (sequences + 1) * 8
        if len(raw) != expected:
            raise DamagedError(
                f"{index} has {len(raw)} bytes, its header says {expected}. It was left as it is."
            )
        self.dtype = DTYPES[code]
        self.lengths: NDArray[np.int32] = np.frombuffer(raw, np.int32, sequences, HEADER.size)
        self._byte_offsets = np.frombuffer(raw, np.int64, sequences, HEADER.size + sequences * 4)
        self._width = width = np.dtype(self.dtype).itemsize
        size = int(self._byte_offsets[-1]) // width + int(self.lengths[-1]) if sequences else 0
        if data.stat().st_size != size * width:
            raise DamagedError(
                f"{data} has {data.stat().st_size} bytes, its index says {size * width}. "
                "It was left as it is."
            )
        self.tokens: NDArray[Any] = (
            np.memmap(data, dtype=self.dtype, mode="r").view(np.ndarray)  # slices of a memmap cost more
            if size
            else np.empty(0, self.dtype)
        )

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First token of every piece. Training, which reads windows, never asks."""
        return self._byte_offsets // self._width

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """``count`` tokens from ``start`` on, ``[count]``, across document boundaries.

        Raises:
            IndexError: the shard does not hold all of them.
        """
        if start < 0 or count < 0 or start + count > len(self.tokens):
            raise IndexError(
                f"tokens {start} to {start + count} of {self.prefix}, which has {len(self.tokens)}"
            )
        return self.tokens[start : start + count].astype(np.int64)

    def document_at(self, token: int) -> int:
        """Number of the piece that a token belongs to, as in the sidecar's column ``document``.

        Raises:
            IndexError: the shard has no such token.
        """
        if not 0 <= token < len(self.tokens):
            raise IndexError(f"token {token} of {self.prefix}, which has {len(self.tokens)}")
        # bisection touches a few entries; numpy's own search would first copy the whole unaligned index
        return bisect_right(self._byte_offsets, token * self._width) - 1

    def documents(self, start: int, count: int) -> NDArray[np.int64]:
        """Which piece each token of ``read(start, count)`` belongs to, ``[count]``, numbered from 0.

        Raises:
            IndexError: the shard does not hold all of them.
        """
        if start < 0 or count < 1 or start + count > len(self.tokens):
            raise IndexError(
                f"tokens {start} to {start + count} of {self.prefix}, which has {len(self.tokens)}"
            )
        first, last = self.document_at(start), self.document_at(start + count - 1)
        begins = self._byte_offsets[first + 1 : last + 1] // self._width - start
        return np.searchsorted(begins, np.arange(count), side="right").astype(np.int64)

    @cached_property
    def sidecar(self) -> Path:
        """The Parquet file with one row per piece, in the shard's order."""
        path = Path(f"{self.prefix}.docs.parquet")
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        return path

    def describe(self, document: int) -> dict[str, Any]:
        """The sidecar's row of a piece; reads only the row group that holds it.

        Raises:
            IndexError: the shard has no such piece.
        """
        if not 0 <= document < len(self.lengths):
            raise IndexError(f"document {document} of {self.prefix}, which has {len(self.lengths)}")
        file = pq.ParquetFile(self.sidecar)
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if document < rows:
                found: dict[str, Any] = file.read_row_group(group).slice(document, 1).to_pylist()[0]
                return found
            document -= rows
        raise DamagedError(f"{self.sidecar} has fewer rows than {self.prefix}.idx has documents")

    def pieces(self, identifier: str) -> list[int]:
        """Numbers of the pieces of the document with an id, in its own order; empty if it is not here."""
        found: list[tuple[int, int]] = []
        file = pq.ParquetFile(self.sidecar)
        columns = ["id", "start"] if "start" in file.schema_arrow.names else ["id"]
        base = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            for row in np.flatnonzero(pc.equal(table.column("id"), identifier)).tolist():
                found.append((table.column(columns[-1])[row].as_py() if len(columns) > 1 else 0, base + row))
            base += table.num_rows
        return [number for _, number in sorted(found)]


class Tokens:
    """A tokens artifact: its index and its shards, opened when first asked for.

    Args:
        folder: the artifact's folder.

    Raises:
        DamagedError: its index is missing or not readable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / INDEX_FILE).is_file():
            raise DamagedError(f"{folder} has no {INDEX_FILE}; expected a tokens artifact")
        self.index: dict[str, Any] = read_json(folder / INDEX_FILE)
        self._shards: dict[tuple[str, str], TokenShard] = {}

    @property
    def eos(self) -> int:
        """Id of ``<|end_of_text|>``, the last token of every document."""
        return int(self.index["eos"])

    def sources(self, split: str) -> dict[str, str]:
        """Domain of every source that has documents in a split."""
        return {
            name: entry["domain"]
            for name, entry in sorted(self.index["sources"].items())
            if split in entry["splits"]
        }

    def shard(self, source: str, split: str = "train") -> TokenShard:
        """A source's shard.

        Raises:
            StemmaError: the artifact has no such shard; lists those it has.
            DamagedError: the shard is not what the artifact's index says.
        """
        if source not in self.sources(split):
            known = ", ".join(self.sources(split)) or "(none)"
            raise StemmaError(f"{self.folder} has no {split} tokens of {source!r}; sources there: {known}")
        key = (source, split)
        if key not in self._shards:
            entry = self.index["sources"][source]
            shard = TokenShard(self.folder / split / source, entry["domain"])
            if len(shard) != (expected := entry["splits"][split]["tokens"]):
                raise DamagedError(
                    f"{shard.prefix}.bin has {len(shard)} tokens, {self.folder / INDEX_FILE} says "
                    f"{expected}. Both were left as they are."
                )
            self._shards[key] = shard
        return self._shards[key]


def open_shards(folders: Iterable[Path], split: str) -> dict[str, TokenShard]:
    """The shards of one split over several tokens artifacts, by source; empty ones are left out.

    Raises:
        DamagedError: a shard is not what it was written as.
        StemmaError: two artifacts have the same source.
    """
    found: dict[str, TokenShard] = {}
    for folder in folders:
        tokens = Tokens(folder)
        for source in tokens.sources(split):
            if source in found:
                raise StemmaError(f"source {source!r} is in two tokens artifacts, one of them {folder}")
            if len(shard := tokens.shard(source, split)):
                found[source] = shard
    return found
