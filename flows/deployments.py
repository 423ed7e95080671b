"""Deployments: the flow ``pipeline`` with each profile, to be started from the UI's form or by a schedule."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists

from flows.stages import pipeline
from stemma.core.errors import ProfileError
from stemma.profile import load_profile, profile_names

POOL = "stemma"


def deployment(profile: str, root: Path) -> RunnerDeployment:
    """The deployment ``pipeline/<profile>``; its form is filled in with this profile and this root.

    Raises:
        ProfileError: the profile cannot be used.
    """
    return pipeline.to_deployment(
        name=profile,
        description=load_profile(profile).description,
        parameters={"profile": profile, "root": str(root.absolute())},
        work_pool_name=POOL,
        # Paths of profiles are relative to where the UI was started; modules are found through PYTHONPATH.
        job_variables={"working_dir": str(Path.cwd())},
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=["stemma"],
    )


def register(root: Path, say: Callable[[str], None]) -> list[str]:
    """Create or update the process work pool and one deployment per profile; returns their full names.

    One run at a time: stages use every core, and two runs of the same profile would wait for each other
    anyway. A profile that cannot be used is named and left out; the others are none the worse for it.
    """
    # A pool that is there is kept as it is: its limit may have been changed in the UI.
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))
    names = []
    for profile in profile_names():
        try:
            deployment(profile, root).apply()
        except ProfileError as error:
            say(f"no deployment for {error}")
        else:
            names.append(f"{pipeline.name}/{profile}")
    return names
