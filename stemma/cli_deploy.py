"""``stemma deploy``: forms and schedules at a Prefect server."""

from pathlib import Path
from typing import Annotated

import typer

from stemma.cli_options import Overrides, Root
from stemma.core.errors import StemmaError


def deploy(
    profile: Annotated[str, typer.Argument(help="a profile's name, or the path of a .yaml")] = "",
    group: Annotated[
        str, typer.Option(help="only this flow: pipeline, a stage group, inspect-mix; by default all")
    ] = "",
    name: Annotated[str, typer.Option(help="of the deployment; by default the profile's")] = "",
    cron: Annotated[
        str, typer.Option(help='run by itself: "minute hour day month weekday"; of the pipeline by default')
    ] = "",
    every: Annotated[str, typer.Option(help="run by itself in an interval: 30m, 6h, 1d, 2w")] = "",
    timezone: Annotated[str, typer.Option(help="of the schedule, such as Europe/Berlin")] = "UTC",
    pause: Annotated[bool, typer.Option("--pause", help="register the schedule switched off")] = False,
    overrides: Overrides = [],  # noqa: B006 (typer reads the default)
    pool: Annotated[
        str, typer.Option(help="work pool by name, or docker, kubernetes, slurm: made if it is not there")
    ] = "",
    file: Annotated[
        Path | None, typer.Option(help="register what a file like configs/deployments.yaml says")
    ] = None,
    root: Root = Path("runs"),
) -> None:
    """Register forms and schedules at the server that `stemma ui` runs, or PREFECT_API_URL names."""
    from stemma.deployments import DeploymentConfig, load_deployments, schedule

    if bool(profile) == bool(file):
        raise StemmaError("say what to deploy: a profile (stemma deploy nano), or a file (--file mine.yaml)")
    if file:
        if group or name or cron or every or pause or overrides or pool:
            raise StemmaError("with --file everything is in the file; leave the other options out")
        entries = load_deployments(file)
        if not entries:
            raise StemmaError(f"{file} lists no deployments")
    else:
        when = schedule(cron, every, timezone, not pause)
        if pause and not when:
            raise StemmaError("--pause registers a schedule switched off; give --cron or --every too")
        if name and not group and not when:
            raise StemmaError("--name is for one deployment: say which flow with --group")
        entries = tuple(
            DeploymentConfig(
                flow=flow,
                profile=profile,
                name=name,
                parameters={"overrides": overrides} if overrides else {},
                schedules=(when,) if when else (),
                pool=pool,
            )
            for flow in ([group] if group else ["pipeline"] if when else [""])
        )
    from flows.deploy import deploy as register

    register(entries, root, file)
