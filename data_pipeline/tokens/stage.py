"""Documents to token shards: encode in parallel batches, then write the shards in parallel.

A shard holds the documents of one source, split and quality tier, in a seeded order or packed. What is
written depends on neither workers nor batches, and what is done stays done: a killed run repeats at most the
batches and the shards its workers had in hand.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.config import TokensConfig
from data_pipeline.executor.local import start_worker
from data_pipeline.tokens.encode import Encoded, Job, encode_batch, read_documents, vocabulary
from data_pipeline.tokens.shards import INDEX_FILE, TokenShard, token_dtype
from data_pipeline.tokens.tiers import assign_tiers
from data_pipeline.tokens.write import ShardJob, tiers_file, write_shard
from stemma.core.errors import DamagedError, StageFailed, StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.stage import Stage, Workspace
from tokenizer.specials import END_OF_TEXT

TRAIN = "train"
Task = TypeVar("Task", Job, ShardJob)
Run = Callable[[Callable[[Task], Any], Sequence[Task]], Iterator[Task]]


class TokensStage(Stage):
    """Tokenize the documents of an artifact.

    Inputs: ``corpus`` (anything with ``documents/<source>/*.parquet``), ``tokenizer``, and optionally
    ``quality``, whose scores divide sources into tiers.
    """

    kind = "tokens"
    recipe = 2
    config: TokensConfig

    def run(self, work: Workspace) -> dict[str, Any]:
        folder = self.inputs["tokenizer"].path / "hf"
        tokenizer, sizes = vocabulary(folder)
        jobs = self._jobs(work, folder)
        with _workers(work.execution.workers, work.scratch / "workers.log", self.name) as run:
            self._encode(work, run, [job for source in jobs.values() for job in source])
            shards = self._shards(work, jobs, token_dtype(len(sizes)))
            self._write(work, run, shards)
        sources = self._sources(jobs, shards)
        index = {
            "vocab_size": len(sizes),
            "eos": int(tokenizer.convert_tokens_to_ids(END_OF_TEXT)),
            "dtype": token_dtype(len(sizes)).__name__,
            "sequence_chunk": self.config.sequence_chunk,
            "packing": self.config.packing,
            "packing_length": self.config.window,
            "tiers": list(self.config.tiers),
            "sources": sources,
            "skipped": self._skipped(),
        }
        write_json(work.path / INDEX_FILE, index)
        return self._summary(sources)

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
                output = work.scratch / "encoded" / source / f"{path.stem}-{start}-{stop}"
                jobs.setdefault(source, []).append(Job(path, start, stop, tokenizer, output))
        if not jobs:
            raise StemmaError(f"{self.inputs['corpus']} has no documents to tokenize")
        return jobs

    def _encode(self, work: Workspace, run: Run[Job], jobs: list[Job]) -> None:
        todo = [job for job in jobs if not job.done.exists()]
        total = sum(job.stop - job.start for job in jobs)
        done = total - sum(job.stop - job.start for job in todo)
        if done:
            work.progress.say(f"continuing: {done:,} of {total:,} documents are encoded")
        for job in run(encode_batch, todo):
            done += job.stop - job.start
            work.progress.step(done, total, "documents")

    def _shards(
        self, work: Workspace, jobs: dict[str, list[Job]], dtype: type[np.generic]
    ) -> dict[str, list[ShardJob]]:
        """The shards to write, by source; held-out text is not divided into tiers."""
        shards: dict[str, list[ShardJob]] = {}
        if self.config.tiers and "quality" in self.inputs and not any(map(self._scores, jobs)):
            work.progress.say("tiers are asked for, but no source has scores: nothing is divided")
        for source, mine in jobs.items():
            outputs = tuple(job.output for job in mine)
            encoded = Encoded(outputs, dtype)
            scores = self._scores(source)
            if scores and not tiers_file(work.scratch, source).exists():
                assign_tiers(scores, encoded, self.config.tiers, tiers_file(work.scratch, source))
            for split in sorted(encoded.split_names):
                tiered = scores is not None and split == TRAIN
                for tier in range(len(self.config.tiers) + 1) if tiered else (None,):
                    shards.setdefault(source, []).append(
                        ShardJob(
                            name=source if tier is None else f"{source}.t{tier}",
                            source=source,
                            split=split,
                            tier=tier,
                            outputs=outputs,
                            tokenizer=mine[0].tokenizer,
                            folder=work.path,
                            scratch=work.scratch,
                            seed=self.config.seed,
                            window=self.config.window,
                            packed=self.config.packing == "best_fit" and split == TRAIN,
                        )
                    )
        return shards

    def _scores(self, source: str) -> Path | None:
        """The scores of a source's documents, where there are some and tiers are asked for."""
        if not self.config.tiers or "quality" not in self.inputs:
            return None
        path = self.inputs["quality"].path / "scores" / f"{source}.parquet"
        return path if path.exists() else None

    def _write(self, work: Workspace, run: Run[ShardJob], shards: dict[str, list[ShardJob]]) -> None:
        everything = [shard for mine in shards.values() for shard in mine]
        todo = [shard for shard in everything if not shard.done.exists()]
        done = len(everything) - len(todo)
        if done:
            work.progress.say(f"continuing: {done} of {len(everything)} shards are written")
        for _ in run(write_shard, todo):
            done += 1
            work.progress.step(done, len(everything), "shards")

    def _sources(self, jobs: dict[str, list[Job]], shards: dict[str, list[ShardJob]]) -> dict[str, Any]:
        """Every shard's entry of the index."""
        entries: dict[str, Any] = {}
        for source, mine in shards.items():
            first = read_documents(jobs[source][0].documents, ["domain", "language"], 0, 1).to_pylist()[0]
            for shard in mine:
                empty = {**first, "parent": source, "tier": shard.tier, "splits": {}}
                entries.setdefault(shard.name, empty)["splits"][shard.split] = read_json(shard.done)
        return entries

    def _skipped(self) -> dict[str, str]:
        """Sources that the corpus could not reach, with their domains: a plan may go on without them."""
        record = self.inputs["corpus"].path / "sources.json"
        described = read_json(record) if record.exists() else []
        return {entry["id"]: entry["domain"] for entry in described if "skipped" in entry}

    def _summary(self, sources: dict[str, Any]) -> dict[str, Any]:
        splits = [(entry["domain"], *pair) for entry in sources.values() for pair in entry["splits"].items()]
        total = {key: sum(facts[key] for _, _, facts in splits) for key in ("documents", "tokens", "bytes")}
        train = [(domain, facts) for domain, split, facts in splits if split == TRAIN]
        domains: dict[str, int] = {}
        for domain, facts in train:
            domains[domain] = domains.get(domain, 0) + facts["tokens"]
        cut: dict[str, Any] = {"packing": self.config.packing, "window": self.config.window}
        for name in ("cut", "cut_by_concatenation"):
            for key in ("documents", "tokens"):
                whole = sum(facts[key] for _, facts in train)
                part = sum(facts[name][key] for _, facts in train)
                cut[f"{key}_{name}"] = round(part / max(1, whole), 6)
        return {
            **total,
            "bytes_per_token": round(total["bytes"] / max(1, total["tokens"]), 3),
            "train": domains,
            "truncation": cut,
        }


@contextmanager
def _workers(count: int, log: Path, name: str) -> Iterator[Run[Any]]:
    """Something that carries out tasks in ``count`` processes and yields each as it is done.

    One worker is this process.

    Raises:
        StageFailed: a process died.
    """
    if count <= 1:
        yield _in_turn
        return
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start, (os.getpid(), str(log)))

    def run(work: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[Task]:
        futures = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise StageFailed(
                f"{name}: a worker died (killed, or out of memory): what is done is kept. Run again to "
                f"continue, with fewer execution.workers if memory is short. Log: {log}"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)


def _in_turn(work: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[Task]:
    for task in tasks:
        work(task)
        yield task


def _start(parent: int, log: str) -> None:
    """Processes are the parallelism; threads inside each would only fight over the same cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    start_worker(parent, log)
