"""The trained scorer over a whole corpus: ``scores/<source>.parquet``, and what ``quality.json`` says of it.

Each documents file is a job for a worker process and gives one file in scratch, written atomically, so a
killed run repeats at most the files in hand. Memory does not grow with the corpus: a worker holds one batch.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.quality.sampling import batches
from data_pipeline.quality.scorer import Scorer
from data_pipeline.quality.taxonomy import Taxonomy, load_taxonomy
from stemma.core.errors import StageFailed

BATCH = 512  # documents scored at a time
ROWS = 65_536  # per row group of the result
HISTOGRAM = 50  # bins of quality from 0 to 1
EXAMPLES = 5  # documents named at either end


@dataclass(frozen=True)
class Job:
    """A documents file to score, with which model, and where its scores go."""

    documents: Path
    model: Path
    taxonomy: Path
    output: Path


@lru_cache(maxsize=1)
def _scorer(model: Path, taxonomy: Path) -> Scorer:
    return Scorer.load(model, load_taxonomy(taxonomy))


def columns(taxonomy: Taxonomy) -> pa.Schema:
    """Columns of a scores file."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("quality", pa.float32()),
            ("domain", pa.string()),
            ("subdomain", pa.string()),
            *((name, pa.float32()) for name in taxonomy.criteria),
        ]
    )


def score_batches(path: Path, scorer: Scorer) -> Iterator[pa.RecordBatch]:
    """Score the documents of a file, in its order; the ``bytes`` of each text come as a last column."""
    schema = columns(scorer.taxonomy).append(pa.field("bytes", pa.int64()))
    for batch in batches(path, ["id", "text"], BATCH):
        said = scorer.predict(batch["text"].to_pylist())
        found = [
            batch["id"],
            pa.array(said.quality),
            pa.array(scorer.domains).take(pa.array(said.domain)),
            pa.array(scorer.subdomains).take(pa.array(said.subdomain)),
            *(pa.array(np.ascontiguousarray(said.scores[:, i])) for i in range(said.scores.shape[1])),
            pc.binary_length(batch["text"]).cast(pa.int64()),
        ]
        yield pa.RecordBatch.from_arrays(found, schema=schema)


def score_file(job: Job) -> Path:
    """Score one documents file; atomic."""
    scorer = _scorer(job.model, job.taxonomy)
    schema = columns(scorer.taxonomy).append(pa.field("bytes", pa.int64()))
    job.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = job.output.with_name(f".{job.output.name}.{os.getpid()}.tmp")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in score_batches(job.documents, scorer):
            writer.write_batch(batch)
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, job.output)
    return job.documents


def score_corpus(
    jobs: Sequence[Job], workers: int, done: Callable[[int, int], None] = lambda step, total: None
) -> None:
    """Score every file that is not scored yet.

    Args:
        jobs: what to score.
        workers: processes; one scores in this process.
        done: called with how many files are done, and of how many.

    Raises:
        StageFailed: a worker was killed.
    """
    todo = [job for job in jobs if not job.output.exists()]
    count = len(jobs) - len(todo)
    # largest first, so that the last ones to finish are small
    todo.sort(key=lambda job: -job.documents.stat().st_size)
    if min(workers, len(todo)) <= 1:
        for job in todo:
            score_file(job)
            count += 1
            done(count, len(jobs))
        return
    pool = ProcessPoolExecutor(min(workers, len(todo)), get_context("spawn"))
    try:
        for future in as_completed([pool.submit(score_file, job) for job in todo]):
            future.result()
            count += 1
            done(count, len(jobs))
    except BrokenProcessPool as error:
        raise StageFailed(
            "a scoring process died (killed, or out of memory): files that are scored are kept. Run again to "
            "continue, with fewer execution.workers if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class Report:
    """Gathers ``quality.json`` from scores as they pass by.

    Args:
        taxonomy: names what is counted.
        thresholds: bounds of the tiers to count.
    """

    def __init__(self, taxonomy: Taxonomy, thresholds: Sequence[float]) -> None:
        self.taxonomy = taxonomy
        self.thresholds = list(thresholds)
        self.sources: dict[str, dict[str, Any]] = {}

    def add(self, source: str, table: pa.Table) -> None:
        """Count some documents of a source."""
        quality = table["quality"].to_numpy()
        size = table["bytes"].to_numpy()
        tiers = len(self.thresholds) + 1
        entry = self.sources.setdefault(
            source,
            {
                "documents": 0,
                "bytes": 0,
                "quality": 0.0,
                "histogram": np.zeros(HISTOGRAM, np.int64),
                "tiers": np.zeros((tiers, 2), np.int64),
                "domains": defaultdict(int),
                "subdomains": defaultdict(int),
                "criteria": np.zeros(len(self.taxonomy.criteria)),
                "lowest": [],
                "highest": [],
            },
        )
        entry["documents"] += len(quality)
        entry["bytes"] += int(size.sum())
        entry["quality"] += float(quality.sum(dtype=np.float64))
        entry["histogram"] += np.histogram(quality, HISTOGRAM, (0, 1))[0]
        tier = np.digitize(quality, self.thresholds)
        entry["tiers"][:, 0] += np.bincount(tier, minlength=tiers)
        entry["tiers"][:, 1] += np.bincount(tier, size, tiers).astype(np.int64)
        for name in ("domain", "subdomain"):
            for row in pc.value_counts(table[name]).to_pylist():
                entry[f"{name}s"][row["values"]] += row["counts"]
        entry["criteria"] += [
            float(table[name].to_numpy().sum(dtype=np.float64)) for name in self.taxonomy.criteria
        ]
        order = np.lexsort((np.arange(len(quality)), quality))
        for name, rows in (("lowest", order[:EXAMPLES]), ("highest", order[::-1][:EXAMPLES])):
            picked = [
                {"id": table["id"][int(row)].as_py(), "quality": round(float(quality[row]), 4)}
                for row in rows
            ]
            both = [*entry[name], *picked]
            sign = 1 if name == "lowest" else -1
            entry[name] = sorted(both, key=lambda item: (sign * item["quality"], item["id"]))[:EXAMPLES]

    def result(self) -> dict[str, Any]:
        """The content of ``quality.json``: per source, means, histogram, tiers, domains and examples."""
        found = {}
        for source, entry in sorted(self.sources.items()):
            count = max(1, entry["documents"])
            found[source] = {
                "documents": entry["documents"],
                "bytes": entry["bytes"],
                "mean": round(entry["quality"] / count, 4),
                "histogram": entry["histogram"].tolist(),
                "tiers": [{"documents": int(row[0]), "bytes": int(row[1])} for row in entry["tiers"]],
                "domains": dict(sorted(entry["domains"].items())),
                "subdomains": dict(sorted(entry["subdomains"].items())),
                "criteria": {
                    name: round(float(total) / count, 3)
                    for name, total in zip(self.taxonomy.criteria, entry["criteria"])
                },
                "lowest": entry["lowest"],
                "highest": entry["highest"],
            }
        return {
            "taxonomy": self.taxonomy.version,
            "thresholds": self.thresholds,
            "histogram_edges": [round(edge, 4) for edge in np.linspace(0, 1, HISTOGRAM + 1).tolist()],
            "sources": found,
        }


def write_scores(source: str, parts: Sequence[Path], path: Path, report: Report) -> None:
    """Put the scores of a source's files together, in the order of its documents, and count them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, columns(report.taxonomy), compression="zstd") as writer:
        for part in parts:
            for batch in batches(part, [*columns(report.taxonomy).names, "bytes"], ROWS):
                table = pa.Table.from_batches([batch])
                report.add(source, table)
                writer.write_table(table.drop_columns(["bytes"]))
