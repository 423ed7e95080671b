"""Deployments: every flow with every profile, to be started from the UI's form or by a schedule."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists

from flows.forms import Written, read_profile, schema
from flows.stages import FLOWS
from stemma.core.errors import ProfileError
from stemma.profile import profile_names

POOL = "stemma"


def deployment(flow: "Flow[..., Any]", written: Written, root: Path) -> RunnerDeployment:
    """A flow with a profile; its form is filled in with this profile and this root."""
    made = flow.to_deployment(
        name=written.profile.name,
        description=f"{flow.description}\n\nProfile {written.name}: {written.profile.description}",
        parameters={"profile": written.name, "root": str(root.absolute())},
        work_pool_name=POOL,
        # Paths of profiles are relative to where the UI was started; modules are found through PYTHONPATH.
        job_variables={"working_dir": str(Path.cwd())},
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=[written.profile.name, flow.name],
    )
    made._parameter_openapi_schema = schema(flow.name, written, root)
    return made


def register(root: Path, say: Callable[[str], None]) -> list[str]:
    """Create or update the process work pool and one deployment per flow and profile; returns their names.

    A profile that cannot be used is named and left out; the others are none the worse for it.
    """
    # A pool that is there is kept as it is: its limit may have been changed in the UI.
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))
    names = []
    for profile in profile_names():
        try:
            written = read_profile(profile)
        except ProfileError as error:
            say(f"no deployment for {error}")
            continue
        for flow in FLOWS:
            deployment(flow, written, root).apply()
            names.append(f"{flow.name}/{profile}")
    return names
