"""The automation that ``stemma ui`` sets up: a flow run without a heartbeat counts as crashed.

On the machine of the UI ``flows.orphans`` sees sooner that a process is gone; this is for the others.
"""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

NAME = "stemma: no heartbeat, crashed"
HEARTBEAT = "prefect.flow-run.heartbeat"
WITHIN = timedelta(seconds=90)  # a run sends one every 30 s (flows.environment)
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")


def set_up() -> bool:
    """Create the automation unless there is one of its name, which may have been changed; whether it did."""
    with get_client(sync_client=True) as client:
        if client.read_automations_by_name(NAME):
            return False
        client.create_automation(
            AutomationCore(
                name=NAME,
                description="Marks a flow run as crashed whose process has not been heard of for 90 seconds. "
                "Retry continues it. Kept as it is when the UI starts again: change it, or turn it off.",
                tags=["stemma"],
                trigger=EventTrigger(
                    match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                    for_each={"prefect.resource.id"},
                    after={HEARTBEAT},
                    expect={HEARTBEAT, *(f"prefect.flow-run.{end}" for end in ENDS)},
                    posture=Posture.Proactive,
                    threshold=1,
                    within=WITHIN,
                ),
                actions=[
                    ChangeFlowRunState(
                        state=StateType.CRASHED, message="No heartbeat for 90 seconds. Retry continues it."
                    )
                ],
            )
        )
        return True
