"""Token shards as the engine sees them: each source one long array of ids, mapped from its ``.bin`` file.

The ``.bin`` half of Megatron's indexed format is the documents' ids one after another, so a window of any
length is a slice. Where documents begin is in the ``.idx`` half, which reading needs only for their
borders.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json


@dataclass(frozen=True)
class Shard:
    """One source's tokens of one split.

    Attributes:
        source: its id.
        domain: what it counts for.
        ids: ``[tokens]``, read-only.
    """

    source: str
    domain: str
    ids: np.ndarray


def open_shards(folders: Iterable[Path], split: str) -> dict[str, Shard]:
    """Map every non-empty source of some tokens artifacts.

    Args:
        folders: of tokens artifacts; a source may be in one of them only.
        split: ``train`` or ``valid``.

    Raises:
        DamagedError: a shard is not as long as ``tokens.json`` says.
        StemmaError: two artifacts have the same source.
    """
    found: dict[str, Shard] = {}
    for folder in folders:
        record = read_json(folder / "tokens.json")
        dtype = np.dtype(record["dtype"]).newbyteorder("<")
        for source, facts in record["sources"].items():
            tokens = facts["splits"].get(split, {}).get("tokens", 0)
            if not tokens:
                continue
            if source in found:
                raise StemmaError(f"source {source!r} is in two tokens artifacts, one of them {folder}")
            path = folder / split / f"{source}.bin"
            size = path.stat().st_size if path.exists() else 0
            if size != tokens * dtype.itemsize:
                raise DamagedError(
                    f"{path} has {size} bytes, expected {tokens} tokens of {dtype}. It was left as it is."
                )
            found[source] = Shard(source, facts["domain"], np.memmap(path, dtype, "r"))
    return found
