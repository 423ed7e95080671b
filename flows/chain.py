"""The chain as Prefect tasks: one per node, each showing what it made."""

from collections.abc import Callable, Sequence
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.states import State
from prefect.utilities.annotations import quote

from flows.board import HURRY_SECONDS, Board
from flows.devices import devices
from flows.events import TaskListener, artifact_key
from flows.overview import lineage, overview
from flows.reports import StageReport
from flows.retries import DELAYS, JITTER, RETRIES, worth_retrying
from flows.tables import mix_table
from flows.watch import stopped
from stemma.core.errors import Preempted
from stemma.core.printable import printable
from stemma.pipeline import Run


@task(
    task_run_name="{node}: {title}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=DELAYS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=worth_retrying,
)
def make(walk: Run, node: str, title: str) -> State[Any] | None:
    """Make one node's artifact, or verify the one there is, and show what it is.

    Returns:
        The state it ended in when asked to stop: neither completed nor failed.
    """
    logger = get_run_logger()
    report = StageReport(walk, node, logger)
    with Board(logger) as board:
        listener = TaskListener(node, logger, board, report.working)
        walk.listeners.append(listener)
        try:
            with devices(walk.listeners, logger):
                artifact = walk.make(node)
        except BaseException as error:
            listener.ended(ending(error))
            if (state := stopped(error)) is None:
                raise
            board.close(HURRY_SECONDS)
            return state
        finally:
            walk.listeners.remove(listener)
        board.markdown(artifact_key("stage", node), report.sealed(anew=not listener.skipped), title)
        if table := mix_table(artifact):
            board.table(artifact_key("mix", node), table, "Planned and realized mix; they have to be equal.")
    return None


def follow(walk: Run, order: Sequence[str], before: Callable[[str], None] = lambda name: None) -> None:
    """Make nodes in order, each as a task, and show how the run stands.

    Args:
        walk: the run.
        order: its nodes' names, each after what it is made from.
        before: called with a node's name before its task; it may wait, or end the flow run by raising.

    Raises:
        Preempted: it was asked to stop.
    """
    logger = get_run_logger()
    key = artifact_key("report", walk.name)
    about = "Where the run stands, what was asked for, what came of it"
    logger.info("run %s, profile %s: %d stages, to %s", walk.name, walk.profile.name, len(order), order[-1])
    with Board(logger) as board:
        current = ""
        try:
            for current in order:
                before(current)
                board.markdown(key, overview(walk, order, current), about)
                if ended := make(quote(walk), current, walk.nodes[current].title):
                    raise Preempted(ended.message)
        except BaseException as error:
            board.markdown(key, overview(walk, order, current, ending(error)), about)
            raise
        walk.finish()
        drawn = lineage(walk, StageReport(walk, current, logger))
        board.markdown(key, overview(walk, order) + "\n" + drawn, about)


def ending(error: BaseException) -> str:
    """How a stage ended that was not made, in a few words."""
    if isinstance(error, Preempted | TerminationSignal | KeyboardInterrupt):
        return "was stopped; Retry, or a new run with the same parameters, goes on with it"
    said = next(iter(str(error).splitlines()), "")[:200]
    # As code: it may quote what somebody else wrote, and the page is Markdown, which can fetch pictures.
    shown = printable(said).replace("`", "'").replace("|", "\\|")
    return f"failed: {type(error).__name__}" + (f": `{shown}`" if shown else "")
