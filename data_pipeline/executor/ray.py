"""Ranks as Ray tasks.

datatrove's own Ray executor reserves a placement group and starts an actor with a process pool for every job,
and where ranks failed it logs "only n of m tasks completed" and returns as if all was well. Here a rank is a
plain Ray task: Ray begins it again when its worker dies, and what cannot be mended raises.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from data_pipeline.config.executor import RayExecutor
from data_pipeline.executor.ranks import Executor, run_rank
from stemma.core.errors import StageFailed, StemmaError

IN_FLIGHT = 4  # tasks handed to Ray per CPU: enough to keep them busy, few enough to cancel quickly


class RayTasks(Executor):
    """Runs each rank as a task of the cluster this process is connected to."""

    def __init__(self, config: RayExecutor, logs: Path) -> None:
        super().__init__(logs)
        self.config = config

    def execute(self, name: str, pickled: bytes, ranks: list[int]) -> Iterator[int]:
        task = ray.remote(run_rank).options(
            name=name,
            num_cpus=self.config.cpus_per_task,
            memory=self.config.memory_per_task,
            max_retries=self.config.max_retries,
            retry_exceptions=False,  # what a rank raises, it raises again; only a dead worker is worth a try
        )
        pipeline = ray.put(pickled)
        window = max(1, int(IN_FLIGHT * ray.cluster_resources().get("CPU", 1) / self.config.cpus_per_task))
        waiting = list(reversed(ranks))
        running: list[ray.ObjectRef] = []
        try:
            while waiting or running:
                while waiting and len(running) < window:
                    running.append(task.remote(pipeline, waiting.pop()))
                ended, running = ray.wait(running)
                yield ray.get(ended[0])
        except RayTaskError as error:
            raise error.cause from error  # what the rank raised, as the local executor would
        except RayError as error:
            why = "ran out of memory" if isinstance(error, OutOfMemoryError) else "died"
            raise StageFailed(
                f"a Ray worker {why} while it ran {name!r}, after {self.config.max_retries} retries "
                f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). Give a shard more with "
                f"memory_per_task or cpus_per_task and run again; finished shards stay. "
                f"Logs: {self.logs / name}"
            ) from error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


@contextmanager
def ray_tasks(config: RayExecutor, workers: int, logs: Path) -> Iterator[RayTasks]:
    """Connect to a cluster, or start one on this machine alone; disconnected (and stopped) afterwards.

    Raises:
        StemmaError: the cluster cannot be reached.
    """
    logs.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here tells nobody
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if config.address:
            knock(config.address)
            # workers on other machines must find this code
            environment = {"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": search_path()}}
            ray.init(address=config.address, runtime_env=environment, **quiet)
        else:
            ray.init(
                num_cpus=workers,
                object_store_memory=config.object_store_memory,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
    except (OSError, RayError, RuntimeError, ValueError) as error:
        where = config.address or "this machine"
        raise StemmaError(
            f"no Ray cluster on {where}: {error}. Start one (`ray start --head`) or leave `address` empty."
        ) from error
    try:
        yield RayTasks(config, logs)
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Raise OSError if nobody listens at host:port: Ray would ask for minutes and exit."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def search_path() -> str:
    """This process's PYTHONPATH with the folder that holds our packages in front."""
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH", "")])])
