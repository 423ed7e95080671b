"""Documents to token shards: encode in parallel batches, then write each source in a seeded order.

A document is the tokens of its text and ``<|end_of_text|>``; control tokens that occur in the text are
encoded as ordinary text. A conversation (a row with ``messages``) is rendered by the chat template, which
brings its own ``<|begin_of_text|>`` and ends every answer; an end is added only where there is none.

Encoded batches go to the scratch folder, each written atomically, so a killed run repeats at most the batches
its workers had in hand. The order in which documents are written depends on the seed and the source alone,
not on workers.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.config import TokensConfig
from data_pipeline.permutation import permutation
from data_pipeline.tokens.shards import INDEX_FILE, TokenShard, token_dtype, write_index
from stemma.core.errors import DamagedError, StageFailed, StemmaError
from stemma.core.files import read_json, write_atomic, write_json
from stemma.core.stage import Stage, Workspace
from tokenizer.chat import render
from tokenizer.load import encode_text, load, token_bytes
from tokenizer.specials import END_OF_TEXT

SIDECAR_ROWS = 16_384  # rows per group: what looking one document up has to read
FACTS = ("id", "origin", "split", "cluster", "decisions", "domain", "language")


@dataclass(frozen=True)
class Job:
    """Rows ``start .. stop - 1`` of one documents file, and where their tokens go."""

    documents: Path
    start: int
    stop: int
    tokenizer: Path
    output: Path


@cache
def _vocabulary(folder: Path) -> tuple[Any, np.ndarray]:
    """The tokenizer of a folder, and how many bytes each of its ids stands for."""
    tokenizer = load(folder)
    return tokenizer, np.array([len(text) for text in token_bytes(tokenizer)], dtype=np.int64)


def encode(tokenizer: Any, rows: Iterable[dict[str, Any]]) -> Iterator[list[int]]:
    """The tokens of each document, its end included.

    Args:
        tokenizer: what ``tokenizer.load.load`` returns.
        rows: documents with ``text``, and ``messages`` (JSON) where it is a conversation.

    Raises:
        StemmaError: a conversation is not what the chat template takes; names the document.
    """
    documents = list(rows)
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    plain = [row for row in documents if not row.get("messages")]
    texts = iter(encode_text(tokenizer, [row["text"] for row in plain]))
    for row in documents:
        if not row.get("messages"):
            yield [*next(texts), end]
            continue
        try:
            conversation = json.loads(row["messages"])
            ids = render(tokenizer, conversation["messages"], conversation.get("tools")).ids
        except (ValueError, KeyError, TypeError, StemmaError) as error:
            raise StemmaError(
                f"document {row['id']} ({row['origin']}): its messages cannot be rendered: {error}"
            ) from error
        yield ids if ids and ids[-1] == end else [*ids, end]


def read_documents(
    path: Path, columns: list[str] | None = None, start: int = 0, stop: int | None = None
) -> pa.Table:
    """Rows of a documents file; only the row groups they lie in are read.

    Raises:
        DamagedError: it is not readable Parquet, or lacks a column.
    """
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        wanted = tuple(name for name in names if columns is None or name in columns)
        stop = file.metadata.num_rows if stop is None else stop
        groups, first, base = [], None, 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if base < stop and start < base + rows:
                first = base if first is None else first
                groups.append(group)
            base += rows
        return _row_groups(path, tuple(groups), wanted).slice(start - (first or 0), stop - start)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error


@lru_cache(maxsize=2)
def _row_groups(path: Path, groups: tuple[int, ...], columns: tuple[str, ...]) -> pa.Table:
    """Row groups of a file, kept because the next batch mostly lies in the same one."""
    return pq.ParquetFile(path).read_row_groups(list(groups), columns=list(columns))


def encode_batch(job: Job) -> int:
    """Encode a job's rows: ``<output>.tokens`` first, then ``<output>.npz`` (lengths and bytes), which marks
    it done.

    Returns:
        how many documents it holds.
    """
    tokenizer, sizes = _vocabulary(job.tokenizer)
    rows = read_documents(
        job.documents, ["id", "origin", "text", "messages"], job.start, job.stop
    ).to_pylist()
    encoded = [np.array(ids, dtype=token_dtype(len(sizes))) for ids in encode(tokenizer, rows)]
    facts = io.BytesIO()
    np.savez(
        facts,
        tokens=np.array([len(ids) for ids in encoded], dtype=np.int64),
        bytes=np.array([int(sizes[ids].sum()) for ids in encoded], dtype=np.int64),
    )
    write_atomic(Path(f"{job.output}.tokens"), b"".join(ids.tobytes() for ids in encoded))
    write_atomic(Path(f"{job.output}.npz"), facts.getvalue())
    return len(encoded)


class TokensStage(Stage):
    """Tokenize the documents of an artifact.

    Inputs: ``corpus`` (anything with ``documents/<source>/*.parquet``) and ``tokenizer``.
    """

    kind = "tokens"
    config: TokensConfig

    def _skipped(self) -> dict[str, str]:
        """Sources that the corpus could not reach, with their domains: a plan may go on without them."""
        record = self.inputs["corpus"].path / "sources.json"
        described = read_json(record) if record.exists() else []
        return {entry["id"]: entry["domain"] for entry in described if "skipped" in entry}

    def run(self, work: Workspace) -> dict[str, Any]:
        folder = self.inputs["tokenizer"].path / "hf"
        _, sizes = _vocabulary(folder)
        jobs = self._jobs(work, folder)
        self._encode(work, [job for source in jobs.values() for job in source])
        dtype = token_dtype(len(sizes))
        sources = {source: self._write(work.path, source, mine, dtype) for source, mine in jobs.items()}
        index = {
            "vocab_size": len(sizes),
            "eos": int(_vocabulary(folder)[0].convert_tokens_to_ids(END_OF_TEXT)),
            "dtype": dtype.__name__,
            "sequence_chunk": self.config.sequence_chunk,
            "sources": sources,
            "skipped": self._skipped(),
        }
        write_json(work.path / INDEX_FILE, index)
        splits = [(entry["domain"], *pair) for entry in sources.values() for pair in entry["splits"].items()]
        total = {key: sum(facts[key] for _, _, facts in splits) for key in ("documents", "tokens", "bytes")}
        domains: dict[str, int] = {}
        for domain, split, facts in splits:
            if split == "train":
                domains[domain] = domains.get(domain, 0) + facts["tokens"]
        return {
            **total,
            "bytes_per_token": round(total["bytes"] / max(1, total["tokens"]), 3),
            "train": domains,
        }

    def verify(self, work: Workspace) -> None:
        """Every shard opens, and its index agrees with its sidecar."""
        for index in sorted(work.path.glob("*/*.idx")):
            shard = TokenShard(index.with_suffix(""))
            sidecar = pq.read_table(shard.sidecar, columns=["offset", "tokens"])
            for column, expected in (("offset", shard.offsets), ("tokens", shard.lengths)):
                if not np.array_equal(sidecar.column(column).to_numpy(), expected):
                    raise DamagedError(f"{shard.sidecar}: {column} does not agree with {index}")

    def _jobs(self, work: Workspace, tokenizer: Path) -> dict[str, list[Job]]:
        """The batches to encode by source, in the order of the documents files' rows."""
        jobs: dict[str, list[Job]] = {}
        for path in sorted((self.inputs["corpus"].path / "documents").glob("*/*.parquet")):
            source = path.parent.name
            try:
                count = pq.ParquetFile(path).metadata.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DamagedError(
                    f"{path} is not readable Parquet ({error}). It was left as it is."
                ) from error
            for start in range(0, count, self.config.batch_documents):
                stop = min(count, start + self.config.batch_documents)
                output = work.scratch / source / f"{path.stem}-{start}-{stop}"
                jobs.setdefault(source, []).append(Job(path, start, stop, tokenizer, output))
        if not jobs:
            raise StemmaError(f"{self.inputs['corpus']} has no documents to tokenize")
        return jobs

    def _encode(self, work: Workspace, jobs: list[Job]) -> None:
        todo = [job for job in jobs if not Path(f"{job.output}.npz").exists()]
        total = sum(job.stop - job.start for job in jobs)
        done = total - sum(job.stop - job.start for job in todo)
        if done:
            work.progress.say(f"continuing: {done:,} of {total:,} documents are encoded")
        workers = min(work.execution.workers, len(todo))
        if workers <= 1:
            for job in todo:
                done += encode_batch(job)
                work.progress.step(done, total, "documents")
            return
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _single_threaded)
        try:
            for future in as_completed([pool.submit(encode_batch, job) for job in todo]):
                done += future.result()
                work.progress.step(done, total, "documents")
        except BrokenProcessPool as error:
            raise StageFailed(
                f"{self.name}: a tokenizing process died (killed, or out of memory): what is encoded "
                "is kept. Run again to continue, with fewer execution.workers if memory is short"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _write(self, folder: Path, source: str, jobs: list[Job], dtype: type[np.generic]) -> dict[str, Any]:
        """Write a source's shards from its encoded batches, documents in seeded order."""
        files = list(dict.fromkeys(job.documents for job in jobs))
        facts = pa.concat_tables([read_documents(path, list(FACTS)) for path in files]).to_pydict()
        batches = [np.load(f"{job.output}.npz") for job in jobs]
        lengths = np.concatenate([batch["tokens"] for batch in batches])
        sizes = np.concatenate([batch["bytes"] for batch in batches])
        ends = [np.cumsum(batch["tokens"]) for batch in batches]
        first = np.cumsum([0, *(job.stop - job.start for job in jobs)])
        pages = [np.memmap(f"{job.output}.tokens", dtype=dtype, mode="r") for job in jobs]
        shuffle = permutation(len(lengths), self.config.seed, "documents", source)
        rows = np.array([shuffle(position) for position in range(len(lengths))])
        splits: dict[str, Any] = {}
        for split in sorted(set(facts["split"])):
            chosen = [int(row) for row in rows if facts["split"][row] == split]
            prefix = folder / split / source
            prefix.parent.mkdir(exist_ok=True)
            with open(f"{prefix}.bin", "wb") as handle:
                for row in chosen:
                    batch = int(np.searchsorted(first, row, side="right")) - 1
                    end = int(ends[batch][row - first[batch]])
                    handle.write(pages[batch][end - int(lengths[row]) : end].tobytes())
            kept = lengths[chosen]
            write_index(Path(f"{prefix}.idx"), kept.tolist(), dtype)
            sidecar = {
                "document": np.arange(len(chosen), dtype=np.int64),
                "id": [facts["id"][row] for row in chosen],
                "origin": [facts["origin"][row] for row in chosen],
                "offset": np.cumsum(kept) - kept,
                "tokens": kept,
                "bytes": sizes[chosen],
                "cluster": [facts["cluster"][row] for row in chosen],
                "decisions": [facts["decisions"][row] for row in chosen],
            }
            table = pa.table(sidecar)
            pq.write_table(table, f"{prefix}.docs.parquet", compression="zstd", row_group_size=SIDECAR_ROWS)
            splits[split] = {
                "documents": len(chosen),
                "tokens": int(kept.sum()),
                "bytes": int(sizes[chosen].sum()),
            }
        return {"domain": facts["domain"][0], "language": facts["language"][0], "splits": splits}


def _single_threaded() -> None:
    """Processes are the parallelism; threads inside each would only fight over the same cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
