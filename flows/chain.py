"""The chain as a Prefect flow: one task per node, in the order ``stemma.pipeline`` says.

Prefect shows, schedules and restarts; what is made and what is already there is decided by the artifacts
alone. So no task is cached or retried by Prefect, and running a flow again, by whatever button, resumes.
"""

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, State
from prefect.utilities.annotations import quote
from pydantic import Field

from flows.events import TaskListener, artifact_key
from flows.orphans import mark
from flows.tables import mix_table, report_markdown, summary_markdown
from stemma.core.artifact import Store
from stemma.core.errors import Preempted
from stemma.pipeline import Run, nodes
from stemma.profile import load_profile, profile_names

# A walk made by the caller (the demo in a terminal), followed instead of one built from the parameters.
given_walk: ContextVar[Run | None] = ContextVar("given_walk", default=None)

LAST = nodes()[-1].name

# Choices for the form; what the fields mean is in the docstring of ``pipeline``, where Prefect reads it.
ProfileName = Annotated[str, Field(json_schema_extra={"enum": profile_names()})]
StageName = Annotated[str, Field(json_schema_extra={"enum": [node.name for node in nodes()]})]


@task(task_run_name="{node}: {title}", cache_policy=NO_CACHE, retries=0, persist_result=False)
def make(walk: Run, node: str, title: str) -> None:
    """Make one node's artifact, or verify the one there is, and show what it is."""
    listener = TaskListener(node, get_run_logger())
    walk.listeners.append(listener)
    try:
        artifact = walk.make(node)
    finally:
        walk.listeners.remove(listener)
    create_markdown_artifact(summary_markdown(artifact), key=artifact_key("stage", node), description=title)
    table = mix_table(artifact)
    if table:
        create_table_artifact(
            table,
            key=artifact_key("mix", node),
            description="Planned and realized mix; they have to be equal.",
        )


def follow(walk: Run, stop_after: str) -> None:
    """Make the nodes up to ``stop_after``, each as a task, and show the report."""
    for name in walk.order(stop_after):
        make(quote(walk), name, walk.nodes[name].title)
    walk.finish()
    text = report_markdown(walk.name, walk.profile.description, walk.artifacts, walk.store)
    create_markdown_artifact(text, key=artifact_key("report", walk.name), description="The run's report")


@flow(
    name="pipeline",
    description="From the corpus over training, SFT and RL to an exported model. Run again, it continues.",
    flow_run_name="{profile}",
    retries=0,
    persist_result=False,
)
def pipeline(
    profile: ProfileName = "nano",
    stop_after: StageName = LAST,
    overrides: list[str] = [],  # noqa: B006 (Prefect reads the default into the form)
    root: str = "runs",
) -> State[Any] | None:
    """Make what a profile describes, stage by stage; what is there already is verified and kept.

    Args:
        profile: What to make: a profile in configs/.
        stop_after: The last stage to make; those before it are made or verified first.
        overrides: Changes to the profile, one per line, such as sft.steps=100.
        root: Folder of runs, artifacts and downloads, on the worker's machine.
    """
    walk = given_walk.get()
    if walk is None:
        walk = Run(load_profile(profile, overrides), Store(Path(root)))
    else:
        mark(runtime.flow_run.id)
    try:
        follow(walk, stop_after)
    except Preempted as stopped:
        # Asked to stop and left a checkpoint: not a failure. "Retry" or the same command continues.
        return Cancelled(message=str(stopped), data=stopped)
    return None
