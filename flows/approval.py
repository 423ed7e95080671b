"""Asking a person: the flow run is suspended, the UI shows a form, and *Resume* carries on or ends cleanly.

Suspended, not paused: its process ends, so that it holds no slot of the worker, and a worker or a server that
is started anew loses nothing. When it is resumed, the flow begins again and finds the answer here; what was
made before is only verified.
"""

import hashlib
from itertools import count

from prefect import get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRunInput
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_base_key
from pydantic import Field

from flows.events import artifact_key
from stemma.core.errors import Preempted, StemmaError

DAYS = 7.0


class Declined(Preempted):
    """A person said no: the run ends as Cancelled, and can be asked again."""


class Answer(RunInput):
    """The form of a question. A switch, since a list of choices does not open by mouse in the UI's dialog."""

    go_on: bool = Field(
        False,
        title="Yes, go on",
        description="Left off, the run ends here: nothing is lost, and *Retry* asks again.",
    )
    note: str = Field("", title="Note", description="Why, and who says so; kept in the run's log.")


def ask(subject: str, question: str, days: float = DAYS, identity: str = "") -> str:
    """Wait for a person's yes.

    The same question is asked once: whatever restarts this flow run finds the answer. A no counts once: after
    *Retry* the question is asked again, as it is if nobody answered in time.

    Args:
        subject: what it is about, such as a stage's name; names the artifact that holds the question.
        question: Markdown.
        days: how long the answer may take; then the run fails.
        identity: another one is another question; the question itself by default.

    Returns:
        The note that came with the yes.

    Raises:
        Declined: the answer is no.
        StemmaError: this flow run has no deployment, so nothing could start it again.
    """
    if not runtime.deployment.id:
        raise StemmaError(
            f"{subject} needs a person's yes, which only a flow run of a deployment can wait for: start it "
            "from the UI, or leave the stage out of `approve`"
        )
    base = artifact_key(subject, hashlib.sha256((identity or question).encode()).hexdigest()[:12])
    kept = {item.key: item for item in _inputs(f"suspended-{base}")}
    for attempt in count(1):
        key = f"{base}-{attempt}"
        names = keyset_from_base_key(f"suspended-{key}")
        if f"suspended-{key}-refused" in kept:
            continue
        if names["schema"] in kept and names["response"] not in kept:
            continue  # its time ran out, or the run was cancelled while it waited
        break
    if names["schema"] not in kept:
        create_markdown_artifact(
            question, key=artifact_key("question", subject), description="Waits for a yes"
        )
        get_run_logger().info("%s waits for a person: press Resume on this page", subject)
    form = Answer.with_initial_data(description=question)
    answer = suspend_flow_run(wait_for_input=form, key=key, timeout=max(1, round(days * 86400)))
    note = f": {answer.note}" if answer.note else ""
    if answer.go_on:
        get_run_logger().info("%s was approved%s", subject, note)
        return answer.note
    with get_client(sync_client=True) as client:
        client.create_flow_run_input(runtime.flow_run.id, f"suspended-{key}-refused", "true")
    raise Declined(f"{subject} was not approved{note}. Nothing is lost; Retry asks again.")


def _inputs(prefix: str) -> list[FlowRunInput]:
    with get_client(sync_client=True) as client:
        return client.filter_flow_run_input(runtime.flow_run.id, prefix, limit=200, exclude_keys=set())
