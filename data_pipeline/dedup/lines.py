"""Removal of boilerplate: lines that more documents of one source have than a limit.

Two passes over the texts: hashes of lines are counted per file and added up per range of hashes, then the
frequent ones are cut. A line counts once per document, without case and with its spaces folded. The kept
index remembers which lines were frequent, so that later documents lose them at their first occurrence;
documents that are in it are not touched, so a line that becomes frequent later stays where it was.

A document keeps its id, which is of the text before, because the index knows it by that name; `decisions`
tells how many lines were cut.
"""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.config.dedup import LinesConfig
from data_pipeline.dedup.outputs import Outputs, Step, noted, read, replaced
from data_pipeline.dedup.parts import I64, U64, between, load, ranges, save
from data_pipeline.executor.ranks import Executor

LINES = "boilerplate"
PARTITION = 4_000_000  # hashes of lines added up at a time
SHOWN = 500  # lines per source that are kept for people to read
LONGEST = 300  # characters of such a line
SAMPLE = pa.schema([("source", pa.string()), ("line", pa.string()), ("documents", pa.int64())])


def folded(line: str) -> str:
    """What of a line counts."""
    return " ".join(line.lower().split())


def line_hash(source: str, line: str) -> int:
    """64-bit hash of a folded line of a source."""
    return int.from_bytes(hashlib.blake2b(f"{source}\0{line}".encode(), digest_size=8).digest())


class CountLines(Step):
    """Writes the distinct lines of a file, by hash, and how many documents have each."""

    name = "count lines"

    def __init__(self, files: list[Path], config: LinesConfig, scratch: Path) -> None:
        super().__init__()
        self.files = files
        self.config = config
        self.scratch = scratch

    def work(self, rank: int) -> None:
        counts: Counter[int] = Counter()
        for batch in read(self.files[rank], ["source", "domain", "text"]):
            for source, domain, text in zip(*(column.to_pylist() for column in batch.columns)):
                if domain in self.config.domains:
                    counts.update(hashes_of(source, text, self.config).keys())
        hashes = np.fromiter(counts.keys(), np.uint64, len(counts))
        by_hash = np.argsort(hashes)
        save(self.scratch / f"{rank:05d}" / "hashes.npy", hashes[by_hash])
        save(self.scratch / f"{rank:05d}" / "counts.npy", np.fromiter(counts.values(), np.int64)[by_hash])


def hashes_of(source: str, text: str, config: LinesConfig) -> dict[int, str]:
    """The lines of a text that are long enough, by hash."""
    lines = (line for line in set(map(folded, text.split("\n"))) if len(line) >= config.min_line)
    return {line_hash(source, line): line for line in lines}


class FrequentLines(Step):
    """Adds up the counts; writes the frequent hashes and their counts, and those of the kept index."""

    name = "frequent lines"

    def __init__(self, files: int, config: LinesConfig, scratch: Path, tables: list[Path]) -> None:
        super().__init__()
        self.files = files
        self.config = config
        self.scratch = scratch
        self.tables = tables

    def work(self, rank: int) -> None:
        parts = [self.scratch / f"{part:05d}" for part in range(self.files)]
        size = sum(len(load(part / "hashes.npy")) for part in parts)
        frequent, documents = [], []
        for low, high in ranges(size, PARTITION):
            found = [between(part, "hashes", ("hashes", "counts"), low, high) for part in parts]
            hashes, counts = (np.concatenate(column) for column in zip(*found))
            distinct, place = np.unique(hashes, return_inverse=True)
            total = np.zeros(len(distinct), np.int64)
            np.add.at(total, place, counts)
            often = total > self.config.max_documents
            frequent.append(distinct[often])
            documents.append(total[often])
        save(self.scratch / "counts.npy", np.concatenate(documents))
        save(self.scratch / "counted.npy", np.concatenate(frequent))
        earlier = [
            np.array(load(table / "lines.npy")) for table in self.tables if (table / "lines.npy").exists()
        ]
        save(self.scratch / "lines.npy", np.unique(np.concatenate([*frequent, *earlier])))


class CutLines(Step):
    """Cuts the frequent lines out of one file's documents."""

    name = "cut lines"

    def __init__(
        self, files: list[Path], config: LinesConfig, scratch: Path, kept: Path, rejects: Path, tallies: Path
    ) -> None:
        super().__init__()
        self.files = files
        self.config = config
        self.scratch = scratch
        self.kept, self.rejects, self.tallies = kept, rejects, tallies

    def work(self, rank: int) -> None:
        path = self.files[rank]
        frequent = np.array(load(self.scratch / "lines.npy"))
        seen: dict[int, tuple[str, str]] = {}
        with Outputs(path.stem, (LINES,), self.kept, self.rejects, self.tallies) as outputs:
            for batch in read(path):
                table = pa.Table.from_batches([batch])
                texts, decisions = table["text"].to_pylist(), table["decisions"].to_pylist()
                rule, value = (np.full(len(table), "", object) for _ in range(2))
                sources, domains = table["source"].to_pylist(), table["domain"].to_pylist()
                for row, (source, domain, text) in enumerate(zip(sources, domains, texts)):
                    if domain not in self.config.domains:
                        continue
                    own = hashes_of(source, text, self.config)
                    hashes = np.fromiter(own, np.uint64, len(own))
                    cut = {own[int(name)]: int(name) for name in hashes[among(hashes, frequent)]}
                    if not cut:
                        continue
                    lines = text.split("\n")
                    left = [line for line in lines if folded(line) not in cut]
                    seen.update((name, (source, line)) for line, name in cut.items())
                    remaining = "\n".join(left)
                    if len(remaining.strip()) < max(1, self.config.min_text):
                        rule[row] = LINES  # the reject keeps its text
                        value[row] = f"{len(lines) - len(left)} of {len(lines)} lines"
                    else:
                        texts[row] = remaining
                        decisions[row] = noted(decisions[row], boilerplate_lines=len(lines) - len(left))
                outputs.write(replaced(table, text=texts, decisions=decisions), rule, value)
        names = np.array(sorted(seen), np.uint64)
        save(self.scratch / f"{rank:05d}" / "seen.npy", names)
        rows = [{"source": seen[int(name)][0], "line": seen[int(name)][1][:LONGEST]} for name in names]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=pa.schema(list(SAMPLE)[:2])),
            self.scratch / f"{rank:05d}" / "seen.parquet",
        )


class ShowLines(Step):
    """Writes the most frequent lines of each source with their counts."""

    name = "show lines"

    def __init__(self, files: int, scratch: Path) -> None:
        super().__init__()
        self.files = files
        self.scratch = scratch

    def work(self, rank: int) -> None:
        hashes = np.array(load(self.scratch / "counted.npy"))
        counts = np.array(load(self.scratch / "counts.npy"))
        shown: dict[str, dict[str, int]] = {}
        for part in range(self.files):
            names = np.array(load(self.scratch / f"{part:05d}" / "seen.npy"))
            known = among(names, hashes)
            place = np.minimum(np.searchsorted(hashes, names), max(0, len(hashes) - 1))
            rows = pq.read_table(self.scratch / f"{part:05d}" / "seen.parquet").to_pylist()
            for index in np.flatnonzero(known):
                here = shown.setdefault(rows[index]["source"], {})
                here[rows[index]["line"]] = int(counts[place[index]])
            for source, lines in shown.items():
                shown[source] = dict(sorted(lines.items(), key=lambda item: (-item[1], item[0]))[:SHOWN])
        found = [
            {"source": source, "line": line, "documents": number}
            for source, lines in sorted(shown.items())
            for line, number in lines.items()
        ]
        pq.write_table(pa.Table.from_pylist(found, schema=SAMPLE), self.scratch / "lines.parquet")


def among(values: U64, sorted_values: U64) -> np.ndarray:
    """Which values are in a sorted array; bool [values]."""
    if not len(sorted_values):
        return np.zeros(len(values), np.bool_)
    place: I64 = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    return np.asarray(sorted_values[place] == values)


def cut_lines(
    pool: Executor,
    config: LinesConfig,
    files: list[Path],
    kept: Path,
    scratch: Path,
    rejects: Path,
    tallies: Path,
    tables: list[Path],
) -> tuple[Path, ...]:
    """Copy documents to ``kept`` without boilerplate; return the files for the index.

    Args:
        pool: where to run.
        config: what is boilerplate.
        files: of documents, without equal ones.
        kept: folder to write to, a file per file.
        scratch: for counts.
        rejects: folder for documents of which too little is left.
        tallies: folder for the tally.
        tables: of the kept index.
    """
    if not files:
        return ()
    pool.run("lines_count", [CountLines(files, config, scratch)], len(files))
    pool.run("lines_frequent", [FrequentLines(len(files), config, scratch, tables)], 1)
    pool.run("lines_cut", [CutLines(files, config, scratch, kept, rejects, tallies)], len(files))
    pool.run("lines_show", [ShowLines(len(files), scratch)], 1)
    return scratch / "lines.npy", scratch / "lines.parquet"
