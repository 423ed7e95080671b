"""datatrove's local executor on a process pool that notices when a worker dies.

datatrove's own ``run()`` waits for ever when a worker is killed (by the out-of-memory killer, say), and
with one worker runs in this very process and resets its loguru handlers. Here every rank runs in a pool
process, whatever their number; resume by rank (``completions/``) is datatrove's.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import dill
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from stemma.core.errors import StageFailed

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_worker(parent: int, log: str) -> None:
    """Once per pool process: die with the parent, and print to a log (libraries draw progress bars)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def run_rank(pickled: bytes, rank: int) -> int:
    """Run one rank of a pickled executor; return the rank."""
    executor: LocalPipelineExecutor = dill.loads(pickled)
    executor._run_for_rank(rank)
    return rank


class Pool:
    """Worker processes for several pipelines, one after the other."""

    def __init__(self, pool: ProcessPoolExecutor, logs: Path) -> None:
        self.pool = pool
        self.logs = logs

    def run(
        self,
        name: str,
        pipeline: list[PipelineStep],
        tasks: int,
        done: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Run a pipeline on ranks ``0..tasks-1``; ranks completed by an earlier try are left alone.

        Args:
            name: of the log folder; one pipeline has one name in a work folder.
            pipeline: datatrove steps.
            tasks: number of ranks; part of the result's layout, so no function of the worker count.
            done: called with the number of ranks that are done, after each.

        Raises:
            StageFailed: a worker was killed.
            Exception: what a rank raised, after the ranks that were not begun are cancelled.
        """
        executor = LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=tasks, logging_dir=str(self.logs / name)
        )
        ranks = executor.get_incomplete_ranks()
        pickled = dill.dumps(executor)
        futures = [self.pool.submit(run_rank, pickled, rank) for rank in ranks]
        count = tasks - len(ranks)
        try:
            for future in as_completed(futures):
                future.result()
                count += 1
                done(count)
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
