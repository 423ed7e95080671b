"""``stemma deploy``: register deployments and schedules at a server that runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.environment import prepare
from flows.server import ServerError, is_healthy, running

COMMAND = "stemma deploy"

if TYPE_CHECKING:
    from stemma.deployments import DeploymentConfig


def deploy(
    entries: "Sequence[DeploymentConfig]",
    root: Path,
    file: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Register deployments at the server of ``stemma ui`` on this root, or at ``PREFECT_API_URL``.

    Args:
        entries: what to register.
        root: the folder of runs.
        file: where the entries are from; None: the command line, whose schedules add to those there are.
        say: receives the lines for the person who asked.

    Returns:
        The deployments' full names.

    Raises:
        ServerError: no server runs.
        StemmaError: an entry cannot be registered.
    """
    home = prepare(root)
    url = os.environ.get("PREFECT_API_URL") or running(home)
    if not url:
        raise ServerError(
            f"no server runs on {home}: start `stemma ui` in another terminal, or set PREFECT_API_URL"
        )
    if not is_healthy(url):
        raise ServerError(f"no Prefect server answers at {url}, which PREFECT_API_URL names")

    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        from flows import pools
        from flows.deployments import Registrar, spread
        from flows.devices import allow
        from flows.forms import read_profile

        wanted = [one for entry in entries for one in spread(entry)]
        for profile in {entry.profile for entry in wanted}:
            read_profile(profile)  # what cannot be used is an error here, before anything is registered
        for kind in {entry.pool for entry in wanted} & set(pools.KINDS):
            made = pools.pool(kind, root)
            pools.create(client, made)
            allow(client, made.name)
            wanted = [
                one.model_copy(update={"pool": made.name}) if one.pool == kind else one for one in wanted
            ]
        registrar = Registrar(client, root, file.name if file else COMMAND, say, adds=file is None)
        names = registrar.register_all(wanted)
        for name in names:
            found = client.read_deployment_by_name(name)
            say(f"{name}: {url.removesuffix('/api')}/deployments/deployment/{found.id}")
            for schedule in found.schedules:
                say(f"  {'' if schedule.active else 'switched off: '}{_when(schedule.schedule)}")
    return names


def _when(schedule: object) -> str:
    """A schedule in words."""
    zone = getattr(schedule, "timezone", None) or "UTC"
    if cron := getattr(schedule, "cron", ""):
        return f"cron {cron} ({zone})"
    if every := getattr(schedule, "interval", None):
        return f"every {every} ({zone})"
    return str(getattr(schedule, "rrule", schedule))
