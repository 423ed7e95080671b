"""Pickles in checkpoints: what a checkpoint from elsewhere may make this process do, which is nothing.

A pickle calls whatever it names. Megatron's format has three kinds: ``common.pt`` (torch reads it as weights
only by itself), objects between the tensors (torch's planner would call anything), and ``.metadata``, the
index of the tensors (torch leaves it to ``pickle``). The first two are held to weights only by
``weights_only``; the index is gone through by ``check_index`` before torch sees it, without importing or
calling anything that it names.
"""

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stemma.core.errors import DamagedError

INDEX = ".metadata"
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.serialization.load: wins over what a caller asks for
REFUSED = "Weights only load failed"  # how it says no
_METADATA = "torch.distributed.checkpoint.metadata"
HARMLESS = {
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *((_METADATA, name) for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata")),
    *((_METADATA, name) for name in ("MetadataIndex", "StorageMeta", "TensorProperties")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "_MEM_FORMAT_ENCODING")),
    *(("torch", name) for name in ("float64", "float32", "bfloat16", "float16", "int64", "int32")),
    *(
        ("torch", name)
        for name in ("int8", "uint8", "bool", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
    ),
}


class _Inert:
    """Stands for a class or function that an index may name; takes anything and does nothing."""

    def __new__(cls, *arguments: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Inert


def check_index(state: Path) -> None:
    """Refuse an index of tensors that names anything but descriptions of tensors.

    Args:
        state: the folder that Megatron wrote.

    Raises:
        DamagedError: it does, or is no index; nothing of it was executed.
    """
    path = state / INDEX
    if not path.is_file():
        return
    try:
        with open(path, "rb") as handle:
            _Reader(handle).load()
    # a pickle that was made to break its reader may raise anything
    except Exception as error:
        raise DamagedError(
            f"{path} is not an index of tensors ({error}). Opening it could run a program; it was not."
        ) from error


@contextlib.contextmanager
def weights_only(state: Path) -> Iterator[None]:
    """Let ``torch.load`` read tensors and plain values only, whoever calls it and whatever it is told.

    Raises:
        DamagedError: there was something else in what was read; it was not executed.
    """
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    except BaseException as error:  # Megatron's, of all ranks together, is no ``Exception``
        if REFUSED not in str(error):
            raise
        raise DamagedError(
            f"{state} holds more than tensors and plain values; opening it could run a program. Nothing was "
            "loaded."
        ) from error
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before
