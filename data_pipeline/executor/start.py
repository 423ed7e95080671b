"""Start the executor that a profile names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.config.executor import LocalExecutor, RayExecutor, SlurmExecutor
from data_pipeline.executor.local import worker_pool
from data_pipeline.executor.ranks import Executor


@contextmanager
def start_executor(
    config: LocalExecutor | RayExecutor | SlurmExecutor, workers: int, logs: Path
) -> Iterator[Executor]:
    """The executor of a profile, ready to run; gone when the block ends.

    Args:
        config: which one.
        workers: processes on this machine, where the executor starts them.
        logs: folder for logs and completion marks; on a cluster, one that every node sees.

    Raises:
        StemmaError: the cluster cannot be reached.
    """
    if isinstance(config, SlurmExecutor):
        from data_pipeline.executor.slurm import JobArrays

        yield JobArrays(config, logs)
    elif isinstance(config, RayExecutor):
        from data_pipeline.executor.ray import ray_tasks

        with ray_tasks(config, workers, logs) as tasks:
            yield tasks
    else:
        with worker_pool(workers, logs) as pool:
            yield pool
