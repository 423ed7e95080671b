"""External sort: the rows that pipelines left in any order, sorted per source, in bounded memory.

    runs      a rank per few megabytes of files: reads them, writes its rows sorted, one run per source
    ranges    keys at which a source's rows are cut into pieces of about equal size (ids are hashes)
    merge     a rank per source and range: reads that range of every run, sorts it, writes it

Rows are sorted by (rule, id); documents have no rule. A run's row groups are small and carry the range of
their keys, so that a rank of the second pass reads little more than its own rows. Nothing here depends on the
number of workers.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from stemma.core.files import write_json

RUN_BYTES = 16_000_000  # of files that one rank sorts, at most; they are compressed, their text is larger
LEAST_RUN_BYTES = 1_000_000
ABOUT_RUNS = 16
GROUP_BYTES = 1_000_000  # of text per row group of a run

Key = tuple[str, str]  # rule ("" for documents), id
FIRST: Key = ("", "")


@dataclass(frozen=True)
class Range:
    """Rows of one source from a key (included) to another (excluded; None: to the end).

    Attributes:
        source: whose rows.
        number: of the range in its source.
        runs: files to read, each sorted.
        start: first key.
        stop: key after the last.
    """

    source: str
    number: int
    runs: tuple[Path, ...]
    start: Key
    stop: Key | None


def groups_of(files: Iterable[Path]) -> list[list[Path]]:
    """Files in groups of about equal size for a rank each; depends on the files alone."""
    sizes = {path: path.stat().st_size for path in sorted(files)}
    limit = min(RUN_BYTES, max(LEAST_RUN_BYTES, sum(sizes.values()) // ABOUT_RUNS))
    groups: list[list[Path]] = []
    size = limit
    for path, length in sizes.items():
        if size + length > limit:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += length
    return groups


class WriteRuns(PipelineStep):
    """First pass: rank n writes ``<folder>/<source>/<n>.parquet`` and the sizes of what it wrote.

    Args:
        groups: files to read, per rank.
        schema: of the rows; a column ``rule`` takes part in the order if there is one.
        folder: for the runs; ``<folder>/sizes/<n>.json`` holds source -> rule -> UTF-8 bytes.
        also: called with the rank, a source and its rows, for what else is needed of them.
    """

    type = "↕ - SORT"
    name = "write sorted runs"

    def __init__(
        self,
        groups: list[list[Path]],
        schema: pa.Schema,
        folder: Path,
        also: Callable[[int, str, pa.Table], None] | None = None,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.schema = schema
        self.folder = folder
        self.also = also

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        table = pa.concat_tables([pq.read_table(path, schema=self.schema) for path in self.groups[rank]])
        sizes: dict[str, dict[str, int]] = {}
        for source in sorted(set(table["source"].to_pylist())):
            rows = ordered(table.filter(pc.equal(table["source"], source)))
            sizes[source] = rule_sizes(rows)
            write_rows(rows, self.folder / source / f"{rank:05d}.parquet")
            if self.also:
                self.also(rank, source, rows)
        write_json(self.folder / "sizes" / f"{rank:05d}.json", sizes)
        yield from ()


def ordered(table: pa.Table) -> pa.Table:
    keys = [("rule", "ascending")] if "rule" in table.schema.names else []
    return table.sort_by([*keys, ("id", "ascending")])


def rule_sizes(table: pa.Table) -> dict[str, int]:
    """UTF-8 bytes of text by rule."""
    lengths = pc.binary_length(table["text"])
    if "rule" not in table.schema.names:
        return {"": pc.sum(lengths).as_py() or 0}
    sums = pa.table({"rule": table["rule"], "bytes": lengths}).group_by("rule").aggregate([("bytes", "sum")])
    return dict(zip(sums["rule"].to_pylist(), sums["bytes_sum"].to_pylist()))


def write_rows(table: pa.Table, path: Path, group_bytes: int = GROUP_BYTES) -> None:
    """Write rows in order, in row groups of about ``group_bytes`` of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for start, stop in slices(pc.binary_length(table["text"]).to_pylist(), group_bytes):
            writer.write_table(table.slice(start, stop - start))


def slices(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Cut rows into stretches of at most ``limit`` bytes, or one row."""
    start, total = 0, 0
    for row, size in enumerate(sizes):
        if total + size > limit and row > start:
            yield start, row
            start, total = row, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def total_sizes(folder: Path) -> dict[str, dict[str, int]]:
    """Source -> rule -> bytes, over all runs."""
    totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in sorted((folder / "sizes").glob("*.json")):
        for source, rules in json.loads(path.read_text()).items():
            for rule, size in rules.items():
                totals[source][rule] += size
    return totals


def cuts(sizes: dict[str, int], limit: int) -> list[Key]:
    """Keys at which to cut a source's rows so that pieces hold about ``limit`` bytes at most.

    Ids are hexadecimal hashes, so a rule's rows are cut at equally spaced ids.

    Args:
        sizes: bytes by rule.
        limit: bytes of a piece.
    """
    found: list[Key] = []
    filled = 0
    for rule, size in sorted(sizes.items()):
        if filled and filled + size > limit:
            found.append((rule, ""))
            filled = 0
        pieces = -(-size // limit)
        found += [(rule, f"{(1 << 32) * piece // pieces:08x}") for piece in range(1, pieces)]
        filled = filled + size if pieces <= 1 else size // pieces
    return found


def plan_ranges(folder: Path, limit: int) -> list[Range]:
    """The ranges of every source's rows in a folder of runs."""
    ranges = []
    for source, sizes in sorted(total_sizes(folder).items()):
        bounds: list[Key | None] = [FIRST, *cuts(sizes, limit), None]
        runs = tuple(sorted((folder / source).glob("*.parquet")))
        ranges += [
            Range(source, number, runs, start or FIRST, stop)
            for number, (start, stop) in enumerate(pairwise(bounds))
        ]
    return ranges


def read_range(wanted: Range, schema: pa.Schema) -> pa.Table:
    """The rows of a range, sorted."""
    tables = [schema.empty_table()]
    for path in wanted.runs:
        file = pq.ParquetFile(path)
        groups = [
            number
            for number in range(file.num_row_groups)
            if overlaps(file.metadata.row_group(number), wanted)
        ]
        if groups:
            table = file.read_row_groups(groups)
            tables.append(table.filter(inside(table, wanted)))
    return ordered(pa.concat_tables(tables))


def overlaps(group: pq.RowGroupMetaData, wanted: Range) -> bool:
    """Whether a row group can have keys of a range, by the statistics in its footer."""
    limits = {}
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema in ("rule", "id"):
            limits[column.path_in_schema] = (column.statistics.min, column.statistics.max)
    low, high = limits.get("rule", ("", ""))
    one_rule = low == high  # else the ids of the group say nothing about its ends
    first = (low, limits["id"][0] if one_rule else "")
    last = (high, limits["id"][1] if one_rule else "g")  # above every hexadecimal digit
    return last >= wanted.start and (wanted.stop is None or first < wanted.stop)


def inside(table: pa.Table, wanted: Range) -> pa.Array:
    """Mask of a sorted table's rows that lie in a range."""
    rules = table["rule"].to_pylist() if "rule" in table.schema.names else [""] * table.num_rows
    keys = list(zip(rules, table["id"].to_pylist()))
    return pa.array([wanted.start <= key and (wanted.stop is None or key < wanted.stop) for key in keys])
