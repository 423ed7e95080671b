"""What passes between steps and what is left of them: rows, writers, tallies, rejects."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.pipeline.writers.parquet import ParquetWriter

from stemma.core.files import write_json

COLUMNS = ("id", "text", "source", "domain", "language", "licence", "origin", "split", "cluster", "decisions")
DOCUMENTS = pa.schema([(name, pa.string()) for name in COLUMNS])
REJECTS = pa.schema([(name, pa.string()) for name in (*COLUMNS, "rule", "value")])
# between steps; `whole` names the text that a part was cut from
DRAFTS = pa.schema([(name, pa.string()) for name in (*COLUMNS, "whole")])


def to_draft(self: DiskWriter, document: Document) -> dict[str, str]:
    """A document as a row of ``DRAFTS``."""
    return to_row(document, DRAFTS)


def to_reject(self: DiskWriter, document: Document) -> dict[str, str]:
    """A rejected document as a row of ``REJECTS``: the filter left rule and value in its metadata."""
    rule, value = document.metadata.get("filter_reason", "unnamed"), document.metadata.get("value", "")
    return {**to_row(document, REJECTS), "rule": str(rule), "value": str(value)}


def to_row(document: Document, schema: pa.Schema) -> dict[str, str]:
    about = document.metadata
    return {name: str(about.get(name, "")) for name in schema.names} | {
        "id": document.id,
        "text": document.text,
    }


def writer(
    folder: Path, filename: str, adapter: Callable[..., dict[str, str]], schema: pa.Schema
) -> ParquetWriter:
    """A datatrove writer with a fixed schema, one file per name and no rotation."""
    return ParquetWriter(
        str(folder),
        filename,
        compression="zstd",
        adapter=adapter,
        schema=schema,
        max_file_size=-1,
        use_content_defined_chunking=False,
    )


class RejectWriter(ParquetWriter):
    """An exclusion writer: rows with rule and value, one file per rank."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            str(folder), "${rank}.parquet", "zstd", to_reject, schema=REJECTS, max_file_size=-1,
            use_content_defined_chunking=False,
        )  # fmt: skip


class Tally(PipelineStep):
    """Counts documents and UTF-8 bytes per source that pass; writes ``<folder>/<step>/<rank>.json``."""

    type = "📊 - TALLY"
    name = "stemma tally"

    def __init__(self, folder: Path, step: str) -> None:
        super().__init__()
        self.folder = folder / step

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for document in data:
            count = counts[document.metadata["source"]]
            count[0] += 1
            count[1] += len(document.text.encode())
            yield document
        write_json(self.folder / f"{rank:05d}.json", counts)


def tallied(folder: Path, step: str) -> dict[str, tuple[int, int]]:
    """Sum of what the ranks' ``Tally`` steps wrote: source -> (documents, bytes)."""
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path in sorted((folder / step).glob("*.json")):
        for source, (number, size) in json.loads(path.read_text()).items():
            documents[source] += number
            sizes[source] += size
    return {source: (documents[source], sizes[source]) for source in documents}
