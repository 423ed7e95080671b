"""What is worth trying again by itself: what depends on a machine that did not answer.

A stage that explains what is wrong (a profile, a damaged file, no room) would only say it again. A lost rank
is the supervisor's business, a lost process the person's, with *Retry*.
"""

from typing import Any

import httpx
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from stemma.core.errors import Unreachable

RETRIES = 3
DELAYS = exponential_backoff(backoff_factor=10)  # seconds: 10, 20, 40
JITTER = 0.2
PASSING = (Unreachable, ConnectionError, TimeoutError, httpx.TransportError)


def worth_retrying(task: "Task[..., Any]", run: TaskRun, state: "State[Any]") -> bool:
    """Whether a failed stage may do better in a while."""
    error: BaseException | None = state.result(raise_on_failure=False)
    return isinstance(error, PASSING)
