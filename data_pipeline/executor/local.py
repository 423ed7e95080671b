"""Ranks in a process pool on this machine that notices when a worker dies.

datatrove's own ``run()`` waits for ever when a worker is killed (by the out-of-memory killer, say), and
with one worker runs in this very process and resets its loguru handlers. Here every rank runs in a pool
process, whatever their number; resume by rank (``completions/``) is datatrove's.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.executor.ranks import Executor, run_rank
from stemma.core.errors import StageFailed
from stemma.core.lifeline import die_with


def start_worker(parent: int, log: str) -> None:
    """Once per pool process: die with the parent, and print to a log (libraries draw progress bars)."""
    die_with(parent)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


class Pool(Executor):
    """Worker processes for several pipelines, one after the other."""

    def __init__(self, pool: ProcessPoolExecutor, logs: Path) -> None:
        super().__init__(logs)
        self.pool = pool

    def execute(self, name: str, pickled: bytes, ranks: list[int]) -> Iterator[int]:
        futures = [self.pool.submit(run_rank, pickled, rank) for rank in ranks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise StageFailed(
                f"a data worker was killed while it ran {name!r}: most likely the machine ran out of memory. "
                f"Set execution.workers lower and run again; finished shards stay. Logs: {self.logs / name}"
            ) from error
        finally:
            for future in futures:
                future.cancel()


@contextmanager
def worker_pool(workers: int, logs: Path) -> Iterator[Pool]:
    """A pool of fresh processes that print to ``workers.log``; gone when the block ends."""
    logs.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(os.getpid(), str(logs / "workers.log")),
    )
    try:
        yield Pool(pool, logs)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
