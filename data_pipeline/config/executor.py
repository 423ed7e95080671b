"""Config models of the executors: where the corpus's data work runs. None of it changes the result."""

from typing import Annotated, Literal

from pydantic import Field

from stemma.core.config import Config, execution_field

SlurmOption = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
OneLine = Annotated[str, Field(pattern=r"^[^\n\r]*$")]


class LocalExecutor(Config):
    """A process pool on this machine; `execution.workers` says how many."""

    type: Literal["local"] = "local"


class RayExecutor(Config):
    """Tasks on a Ray cluster; the run's root must be on a file system that every node sees."""

    type: Literal["ray"] = "ray"
    address: str = execution_field(
        "",
        description="`auto` or host:port of a running cluster; empty starts one on this machine, bound to "
        "127.0.0.1, with `execution.workers` CPUs, and stops it at the end",
    )
    cpus_per_task: float = execution_field(1.0, gt=0, description="CPUs reserved for a shard")
    memory_per_task: int | None = execution_field(None, ge=1, description="bytes reserved for a shard")
    object_store_memory: int = execution_field(
        80_000_000, ge=80_000_000, description="bytes of the object store, if one is started here"
    )
    max_retries: int = execution_field(
        1, ge=0, description="how often a shard is begun again after its worker or node died"
    )


class SlurmExecutor(Config):
    """An `sbatch` job array per phase; root and Python must be on a file system that every node sees."""

    type: Literal["slurm"] = "slurm"
    partition: OneLine = execution_field("", description="partition; empty leaves it to the cluster")
    account: OneLine = execution_field("", description="account to charge; empty leaves it to the cluster")
    time: str = execution_field(
        "04:00:00",
        pattern=r"^(\d+-)?\d{1,3}(:\d{2}){0,2}$",
        description="limit of one array element: [days-]hours:minutes:seconds",
    )
    cpus_per_task: int = execution_field(1, ge=1, description="CPUs of one array element")
    memory_per_cpu_mb: int = execution_field(2_000, ge=1, description="MB of memory per CPU")
    max_array_size: int = execution_field(
        1_000,
        ge=1,
        description="elements of an array at most (Slurm's MaxArraySize is 1001 unless the cluster sets it); "
        "more shards share elements",
    )
    max_running: int | None = execution_field(None, ge=1, description="elements that run at a time, at most")
    setup: tuple[OneLine, ...] = execution_field(
        (), description="shell lines before Python starts, such as `module load gcc`"
    )
    options: dict[SlurmOption, OneLine] = execution_field(
        {}, description="further sbatch options by long name, such as `qos: low`"
    )
    poll_seconds: float = execution_field(5.0, gt=0, description="seconds between looks at the array")


AnyExecutor = Annotated[LocalExecutor | RayExecutor | SlurmExecutor, Field(discriminator="type")]
