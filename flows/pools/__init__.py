"""Work pools: where flow runs are carried out: processes of the worker's machine, Docker, Kubernetes, Slurm.

A pool's base job template is Prefect's own for its type (it comes with Prefect), with what stemma needs laid
over it: ``docker.yaml``, ``kubernetes.yaml``, ``slurm.yaml``.
"""

import contextlib
import json
import sys
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PROCESS = "process"
KINDS = (PROCESS, "docker", "kubernetes", "slurm")
# Where the folder of runs and stemma's code are inside containers.
CONTAINER_ROOT = "/runs"


@dataclass(frozen=True)
class Pool:
    """A work pool as it is created.

    Attributes:
        kind: one of ``KINDS``.
        name: the pool's, such as ``stemma-slurm``.
        type: the type of its workers, as ``prefect worker start --type`` takes it.
        template: its base job template.
        root: the folder of runs as flow runs of this pool see it; "": as this machine sees it.
    """

    kind: str
    name: str
    type: str
    template: dict[str, Any]
    root: str = ""


def pool(kind: str = PROCESS, runs: Path = Path("runs")) -> Pool:
    """The work pool of a kind.

    Args:
        kind: one of ``KINDS``.
        runs: the folder of runs; jobs of Slurm leave what they print below it.

    Raises:
        StemmaError: there is no such kind.
    """
    if kind not in KINDS:
        raise StemmaError(f"there is no kind of work pool {kind!r}; kinds are: {', '.join(KINDS)}")
    if kind == PROCESS:
        return Pool(kind, "stemma", PROCESS, published(PROCESS))
    ours = yaml.safe_load((files(__package__) / f"{kind}.yaml").read_text())
    template = published(ours["type"])
    variables = template["variables"]["properties"]
    variables.update(ours["variables"])
    defaults = dict(ours["defaults"])
    if kind == "slurm":
        defaults |= {"python": sys.executable, "logs": str(runs.absolute() / "slurm")}
    for name, value in defaults.items():
        variables[name]["default"] = value
    template["job_configuration"] = laid_over(template["job_configuration"], ours["job"])
    return Pool(kind, f"stemma-{kind}", ours["type"], template, "" if kind == "slurm" else CONTAINER_ROOT)


def published(worker_type: str) -> dict[str, Any]:
    """Prefect's own base job template for a type of worker, of its collections too."""
    views = files("prefect.server.api.collections_data.views")
    collections = json.loads((views / "aggregate-worker-metadata.json").read_text())
    found = next(workers[worker_type] for workers in collections.values() if worker_type in workers)
    return deepcopy(found["default_base_job_configuration"])


def laid_over(below: Any, above: Any) -> Any:
    """A JSON value with another laid over it: objects by key, arrays by position, all else replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: laid_over(below.get(key), above[key]) if key in above else below[key]
            for key in below | above
        }
    if isinstance(below, list) and isinstance(above, list):
        common = [laid_over(*pair) for pair in zip(below, above)]
        return common + below[len(common) :] + above[len(common) :]
    return above


def create(client: "SyncPrefectClient", made: Pool, concurrency_limit: int | None = None) -> None:
    """Create a work pool if there is none of its name; one that is there may have been changed in the UI."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(
            WorkPoolCreate(
                name=made.name,
                type=made.type,
                base_job_template=made.template,
                concurrency_limit=concurrency_limit,
            )
        )
