"""The kept index: what later runs need to compare new documents with old ones, without the old texts.

    <index>/<nnnnn>/table.json        format, parameters, documents, size and SHA-256 of every file
    <index>/<nnnnn>/*.npy             a part, as parts.py says; bands with the leaders of each key
    <index>/<nnnnn>/clusters.parquet  id, cluster (id of the survivor), method, matched (id), similarity
    <index>/<nnnnn>/lines.npy         uint64, hashes of boilerplate lines, if lines are looked at
    <index>/<nnnnn>/lines.parquet     source, line, documents: the most frequent of them, to be read by people

Every run adds a table and copies the earlier ones as they are. With 14 bands of 8 hashes and ids of 20
letters a document takes about 340 bytes: 112 for the signature, 12 for each band it leads.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.config.dedup import DedupConfig
from data_pipeline.dedup.minhash import HASHES
from data_pipeline.dedup.parts import Parts, load
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, sha256_file, write_json

FORMAT = 1
CHUNK = 1 << 18  # rows copied at a time
CLUSTERS = pa.schema(
    [
        ("id", pa.string()),
        ("cluster", pa.string()),
        ("method", pa.string()),
        ("matched", pa.string()),
        ("similarity", pa.float32()),
    ]
)


class IndexMismatch(StemmaError):
    """A kept index was made with other parameters than those it is to be used with."""


def parameters(config: DedupConfig) -> dict[str, Any]:
    """What an index and a run that uses it must have in common."""
    return {
        "format": FORMAT,
        "hashes": HASHES,
        "n_grams": config.n_grams,
        "num_buckets": config.num_buckets,
        "hashes_per_bucket": config.hashes_per_bucket,
        "threshold": config.threshold,
    }


def open_index(folder: Path, config: DedupConfig) -> tuple[list[Path], list[int]]:
    """Folders of an index's tables, in order, and how many documents each has, after checking all of it.

    Args:
        folder: of the index.
        config: of the run that is to use it.

    Raises:
        DamagedError: a file is missing, or is not what its recorded size or SHA-256 says.
        IndexMismatch: it was made with other parameters.
    """
    tables = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not tables:
        raise DamagedError(f"{folder} is not a dedup index: there is no table in it. It was left as it is.")
    documents = []
    for table in tables:
        if not (table / "table.json").exists():
            raise DamagedError(
                f"{table} has no table.json: it is no table of a dedup index, or a part of one."
            )
        about = read_json(table / "table.json")
        ours = parameters(config)
        different = [
            f"{name} {about['parameters'].get(name)}, wanted {value}"
            for name, value in ours.items()
            if about["parameters"].get(name) != value
        ]
        if different:
            raise IndexMismatch(
                f"the dedup index {folder} does not fit this run: it has {'; '.join(different)}. "
                "Use the parameters it was made with, or make the corpus anew without it."
            )
        for name, (size, digest) in about["files"].items():
            path = table / name
            if not path.exists():
                raise DamagedError(f"{path} is missing. Restore it, or make the corpus without this index.")
            if path.stat().st_size != size or sha256_file(path) != digest:
                raise DamagedError(
                    f"{path} is not what table.json says ({size} bytes, SHA-256 {digest[:12]}...). It was "
                    "left as it is. Restore it, or make the corpus without this index."
                )
        documents.append(int(about["documents"]))
    return tables, documents


def write_table(
    folder: Path,
    parts: Parts,
    matches: Path,
    bands: Iterable[str],
    extras: Iterable[Path],
    config: DedupConfig,
) -> None:
    """Write the new parts and the leaders that were found among them as one table of an index.

    Args:
        folder: of the table; there is none before.
        parts: whose new parts are written.
        matches: folder of ``<band>.<partition>.{keys,leaders}.npy``.
        bands: names of the bands.
        extras: files to add as they are.
        config: for the parameters.
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    new = parts.folders[parts.tables :]
    for name in ("ids", "order", "digests", "minhash", "roots"):
        if (sources := [part / f"{name}.npy" for part in new]) and sources[0].exists():
            concatenate(sources, draft / f"{name}.npy")
    for band in bands:
        keys = sorted(matches.glob(f"{band}.*.keys.npy"))
        concatenate(keys, draft / f"{band}.keys.npy")
        leaders = [path.with_name(path.name.replace(".keys.", ".leaders.")) for path in keys]
        concatenate(leaders, draft / f"{band}.docs.npy", parts.new, np.dtype(np.uint32))
    for path in extras:
        shutil.copyfile(path, draft / path.name)
    files = {path.name: [path.stat().st_size, sha256_file(path)] for path in sorted(draft.iterdir())}
    about = {"parameters": parameters(config), "documents": parts.starts[-1] - parts.new, "files": files}
    write_json(draft / "table.json", about)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def concatenate(paths: list[Path], target: Path, minus: int = 0, dtype: npt.DTypeLike | None = None) -> None:
    """Write arrays one after the other as one, in bounded memory.

    Args:
        paths: of the arrays.
        target: of the result.
        minus: taken off every value.
        dtype: of the result; the widest of the arrays' if None.
    """
    shapes = [load(path) for path in paths]
    rows = sum(len(array) for array in shapes)
    kind = np.dtype(dtype) if dtype is not None else max((a.dtype for a in shapes), key=lambda d: d.itemsize)
    shape = (rows, *shapes[0].shape[1:])
    del shapes  # nothing of them was read yet; what is mapped below is let go file by file
    with open(target, "wb") as handle:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        for path in paths:
            array = load(path)
            for at in range(0, len(array), CHUNK):
                chunk = array[at : at + CHUNK]
                handle.write((chunk - minus if minus else chunk).astype(kind).tobytes())


def copy_tables(base: Path, folder: Path) -> None:
    """Copy the tables of one index to the folder of another."""
    for table in sorted(path for path in base.iterdir() if path.is_dir()):
        if not (folder / table.name).exists():
            draft = folder / f".{table.name}.tmp"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(table, draft)
            draft.rename(folder / table.name)
