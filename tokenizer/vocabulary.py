"""A vocabulary as this project keeps it: entries in rank order, each with its pedigree.

The order of the entries is all that encoding needs. A pre-token that is an entry becomes that entry; any
other is cut into bytes, and of all neighbours whose bytes together are an entry, the leftmost with the lowest
rank are joined, until none are left (tiktoken's rule). Which pair an entry was learned from does not matter,
so a vocabulary can be pruned, extended and begun from a published one.

Scaffolds (Scaffold-BPE, arXiv 2404.17808) are entries that encoding may pass through but never returns: they
have a rank and no id.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stemma.core.errors import DamagedError
from stemma.core.files import write_atomic
from tokenizer.config import BYTES

if TYPE_CHECKING:
    import pyarrow as pa

VOCABULARY_FILE = "vocabulary.parquet"  # in a tokenizer artifact, beside hf/


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

    def save(self, path: Path) -> None:
        """Write a Parquet file, one row per entry in rank order; equal vocabularies give equal bytes.

        Columns: ``rank`` int32, ``id`` int32 (null for scaffolds), ``bytes`` binary, ``stage`` string,
        ``count`` int64, ``scaffold`` bool. The file is written atomically.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [
            pa.array(range(len(self.entries)), pa.int32()),
            pa.array(self.ids, pa.int32(), mask=self.scaffolds),
            pa.array(self.texts, pa.binary()),
            pa.array([entry.stage for entry in self.entries], pa.string()),
            pa.array([entry.count for entry in self.entries], pa.int64()),
            pa.array(self.scaffolds, pa.bool_()),
        ]
        buffer = io.BytesIO()
        pq.write_table(
            pa.Table.from_arrays(columns, schema=_schema()),
            buffer,
            compression="zstd",
            write_page_checksum=True,
        )
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what ``save`` wrote.

        Raises:
            DamagedError: the file is absent, is no such file, or breaks a rule every vocabulary keeps; says
                which.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise DamagedError(
                f"{path} is not a readable vocabulary ({error}). It was left as it is."
            ) from error
        if table.schema != _schema() or any(table[name].null_count for name in table.column_names[2:]):
            found = ", ".join(f"{column.name} {column.type}" for column in table.schema)
            raise DamagedError(f"{path} holds {found or 'nothing'}; expected the columns of a vocabulary")
        rows = table.to_pydict()
        vocabulary = cls(tuple(map(Entry, rows["bytes"], rows["stage"], rows["count"], rows["scaffold"])))
        if fault := vocabulary.fault():
            raise DamagedError(f"{path}: {fault}. It was left as it is.")
        ids = [None if index < 0 else index for index in vocabulary.ids.tolist()]
        if rows["rank"] != list(range(len(ids))) or rows["id"] != ids:
            raise DamagedError(f"{path}: ranks or ids are not in order. It was left as it is.")
        return vocabulary

    def fault(self) -> str | None:
        """What is wrong with the entries: the first broken rule of the class's description, or None."""
        if self.texts[:BYTES] != [bytes([byte]) for byte in byte_order()]:
            return f"the first {BYTES} entries are not the bytes in their order"
        if self.scaffolds[:BYTES].any():
            return "a byte is a scaffold, so not every text could be written"
        places: dict[bytes, int] = {}
        for rank, text in enumerate(self.texts):
            if not text:
                return f"entry {rank} is empty"
            if text in places:
                return f"entries {places[text]} and {rank} are both {text!r}"
            places[text] = rank
        return None


def _schema() -> "pa.Schema":
    """Of the file; pyarrow is loaded only where files are read or written."""
    import pyarrow as pa

    return pa.schema(
        {
            "rank": pa.int32(),
            "id": pa.int32(),
            "bytes": pa.binary(),
            "stage": pa.string(),
            "count": pa.int64(),
            "scaffold": pa.bool_(),
        }
    )


assert len(byte_order()) == BYTES
