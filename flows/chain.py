"""The chain as Prefect tasks: one per node, each showing what it made."""

from collections.abc import Callable, Sequence

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from flows.events import TaskListener, artifact_key
from flows.tables import mix_table, report_markdown, summary_markdown
from stemma.pipeline import Run


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


def follow(walk: Run, order: Sequence[str], before: Callable[[str], None] = lambda name: None) -> None:
    """Make nodes in order, each as a task, and show the report.

    Args:
        walk: the run.
        order: its nodes' names, each after what it is made from.
        before: called with a node's name before its task; it may wait, or end the flow run by raising.
    """
    for name in order:
        before(name)
        make(quote(walk), name, walk.nodes[name].title)
    walk.finish()
    text = report_markdown(walk.name, walk.profile.description, walk.artifacts, walk.store)
    create_markdown_artifact(text, key=artifact_key("report", walk.name), description="The run's report")
