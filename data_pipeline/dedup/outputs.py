"""Reading and writing the Parquet files between steps: documents, rejects, tallies."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.cleaning.records import REJECTS
from stemma.core.files import write_json

BATCH_ROWS = 512  # documents read at a time


class Step(PipelineStep):
    """A step that begins from files: it takes no documents and yields none."""

    type = "🫂 - DEDUP"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self.work(rank)
        yield from ()

    def work(self, rank: int) -> None:
        raise NotImplementedError


def read(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of a Parquet file, one row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=columns)


def replaced(table: pa.Table, **columns: Any) -> pa.Table:
    """A table with some string columns replaced."""
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def noted(decisions: str, **notes: Any) -> str:
    """The JSON of a document's decisions with more in it."""
    return json.dumps({**json.loads(decisions or "{}"), **notes}, sort_keys=True)


class Outputs(ExitStack):
    """Writes kept and rejected documents of one file, and counts what passes each rule.

    Files appear when all is written; one without rows does not.
    """

    def __init__(self, name: str, rules: tuple[str, ...], kept: Path, rejects: Path, tallies: Path) -> None:
        super().__init__()
        self.name = name
        self.kept, self.rejects, self.tallies = kept, rejects, tallies
        self.writers: dict[Path, pq.ParquetWriter] = {}
        self.passed = {rule: (Counter[str](), Counter[str]()) for rule in rules}  # documents, bytes

    def write(self, table: pa.Table, rule: npt.NDArray[np.object_], value: npt.NDArray[np.object_]) -> None:
        """Add documents.

        Args:
            table: of documents.
            rule: per document why it is rejected, or "".
            value: per document the value of the rule.
        """
        gone = np.zeros(len(table), np.bool_)
        for name, passed in self.passed.items():
            out = rule == name
            gone |= out
            rejected = table.select(REJECTS.names[:-2])
            for column, values in (("rule", rule), ("value", value)):
                rejected = rejected.append_column(column, pa.array(values, pa.string()))
            self.append(self.rejects / name / f"{self.name}.parquet", rejected.filter(pa.array(out)))
            count(passed, table.filter(pa.array(~gone)))
        self.append(self.kept / f"{self.name}.parquet", table.filter(pa.array(~gone)))

    def append(self, path: Path, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if path not in self.writers:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.writers[path] = self.enter_context(
                pq.ParquetWriter(draft(path), table.schema, compression="zstd")
            )
        self.writers[path].write_table(table)

    def __exit__(self, *error: Any) -> bool | None:
        result = super().__exit__(*error)
        for path in self.writers:
            if error[0] is None:
                os.replace(draft(path), path)
            else:
                draft(path).unlink(missing_ok=True)
        if error[0] is None:
            for rule, (documents, sizes) in self.passed.items():
                counts = {source: [documents[source], sizes[source]] for source in documents}
                write_json(self.tallies / rule / f"{self.name}.json", counts)
        return result


def draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def count(passed: tuple[Counter[str], Counter[str]], table: pa.Table) -> None:
    """Add a table's documents and UTF-8 bytes per source."""
    sizes = pc.binary_length(table["text"])
    grouped = pa.table({"source": table["source"], "size": sizes}).group_by("source")
    for row in grouped.aggregate([("size", "count"), ("size", "sum")]).to_pylist():
        passed[0][row["source"]] += row["size_count"]
        passed[1][row["source"]] += row["size_sum"]
