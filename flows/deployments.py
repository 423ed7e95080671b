"""Deployments: every flow with every profile, to be started from the UI's form or by a schedule."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.utilities.callables import ParameterSchema, parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import ValidationError

from flows import pools
from flows.devices import POOL, allow
from flows.form_tables import FORMS
from flows.forms import Written, read_profile, schema
from flows.guard import COMMAND, GUARD
from flows.stages import FLOWS
from stemma.core.config import digest
from stemma.core.errors import ProfileError, StemmaError
from stemma.deployments import DeploymentConfig, ScheduleConfig, load_deployments
from stemma.profile import DEPLOYMENTS, profile_names

__all__ = ["POOL", "Registrar", "register", "spread"]

RUNS_AT_ONCE = 4  # flow runs of the process pool; trainings among them wait for the devices
ANCHOR = (2024, 1, 1)  # a Monday: intervals are counted from here, so that registering again moves nothing


def flow_of(name: str) -> "Flow[..., Any]":
    """A flow by name.

    Raises:
        StemmaError: there is none of this name; lists those there are.
    """
    for flow in FLOWS:
        if flow.name == name:
            return flow
    names = ", ".join(flow.name for flow in FLOWS)
    raise StemmaError(f"there is no flow {name!r}; flows are: {names}")


@dataclass
class Registrar:
    """Creates and updates deployments at a server.

    What people change in the UI is kept: schedules they made there, what they switched on or off, parameters
    and job variables they filled in, another work pool.

    Attributes:
        client: of the server.
        root: the folder of runs.
        source: a file or command; its schedules' names hold it, so that former ones of it can be dropped.
        say: receives lines for the person who asked.
        adds: the source adds to the schedules it gave before, in place of replacing them.
    """

    client: SyncPrefectClient
    root: Path
    source: str
    say: Callable[[str], None]
    adds: bool = False

    @cached_property
    def pools(self) -> dict[str, WorkPool]:
        """The server's work pools by name."""
        return {pool.name: pool for pool in self.client.read_work_pools()}

    def register(self, entry: DeploymentConfig, written: Written) -> str:
        """Create or update a deployment; returns its full name.

        Raises:
            StemmaError: there is no such flow or pool, or a parameter or schedule is wrong.
        """
        flow = flow_of(entry.flow)
        name = entry.name or written.profile.name
        full = f"{flow.name}/{name}"
        there = self._there(full)
        pool = self._pool(entry.pool or (there and there.work_pool_name) or POOL)
        inside = pools.CONTAINER_ROOT if pool.type in ("docker", "kubernetes") else str(self.root.absolute())
        form = _form(flow, written, Path(inside))
        fixed = {"profile": written.name, "root": inside}
        given = {**entry.parameters, **fixed}
        _check(full, given, form)
        kept = {**there.parameters, **given} if there else given
        if _problems(kept, form):
            self.say(f"{full}: parameters filled in at the server no longer fit the form and are dropped")
            kept = given
        made: RunnerDeployment = flow.to_deployment(
            name=name,
            description=f"{flow.description}\n\nProfile `{written.name}`: {written.profile.description}",
            parameters=kept,
            work_pool_name=pool.name,
            job_variables=_job_variables(pool, there),
            entrypoint_type=EntrypointType.MODULE_PATH,
            tags=sorted({written.profile.name, flow.name, *entry.tags}),
            paused=there.paused if there else False,
            schedules=list(self._schedules(full, entry.schedules, there, form)),
        )
        made._parameter_openapi_schema = form
        made.apply()
        return full

    def register_all(self, entries: Iterable[DeploymentConfig]) -> list[str]:
        """Create or update deployments; one whose profile cannot be used is named and left out."""
        forms: dict[str, Written | None] = {}
        names = []
        for entry in entries:
            if entry.profile not in forms:
                try:
                    forms[entry.profile] = read_profile(entry.profile)
                except ProfileError as error:
                    self.say(f"no deployment for {error}")
                    forms[entry.profile] = None
            if written := forms[entry.profile]:
                names.append(self.register(entry, written))
        return names

    def _there(self, full: str) -> DeploymentResponse | None:
        try:
            return self.client.read_deployment_by_name(full)
        except ObjectNotFound:
            return None

    def _pool(self, name: str) -> WorkPool:
        if name not in self.pools:
            raise StemmaError(f"there is no work pool {name!r}; pools are: {', '.join(sorted(self.pools))}")
        return self.pools[name]

    def _schedules(
        self,
        full: str,
        wanted: tuple[ScheduleConfig, ...],
        there: DeploymentResponse | None,
        form: ParameterSchema,
    ) -> Iterator[DeploymentScheduleCreate]:
        """Those that are there, as they are there, and the source's new ones without its former ones."""
        new = {f"{one} ({self.source} {digest(one.model_dump(mode='json'))[:4]})": one for one in wanted}
        for one in there.schedules if there else ():
            ours = f"({self.source} " in (one.slug or "")
            if not ours or self.adds or one.slug in new:
                new.pop(one.slug or "", None)
                yield DeploymentScheduleCreate(
                    schedule=one.schedule, active=one.active, parameters=one.parameters, slug=one.slug
                )
        for slug, config in new.items():
            _check(full, config.parameters, form)
            yield _schedule(full, config, slug)


def _form(flow: "Flow[..., Any]", written: Written, root: Path) -> ParameterSchema:
    if flow.name in FORMS:
        return schema(flow.name, written, root)
    form = parameter_schema(flow)  # a flow that is no stage group says itself what it takes
    for name, field in form.properties.items():
        field["title"] = name.replace("_", " ").capitalize()
    for name, value in (("profile", written.name), ("root", str(root))):
        form.properties[name]["default"] = value
    return form


def _problems(parameters: Mapping[str, Any], form: ParameterSchema) -> list[str]:
    """What the form would not take, a line each."""
    shape = {**form.model_dump(), "additionalProperties": False}
    return [
        f"{'.'.join(map(str, one.absolute_path)) or 'parameters'}: {one.message:.200}"
        for one in validate(dict(parameters), shape, ignore_required=True)
    ]


def _check(full: str, parameters: Mapping[str, Any], form: ParameterSchema) -> None:
    """Refuse parameters that the form would refuse."""
    if problems := _problems(parameters, form):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise StemmaError(f"{full}: the form does not take these parameters\n{lines}")


def _job_variables(pool: WorkPool, there: DeploymentResponse | None) -> dict[str, Any]:
    """What a pool has to know beside its template: relative paths of profiles are relative to where this was
    called, and a plain process stands under a guard. A deployment that moved to containers forgets both: it
    would look there for this machine's Python, in this machine's folder."""
    kept = dict(there.job_variables) if there else {}
    if str(kept.get("command", "")).endswith(GUARD):
        kept = {name: value for name, value in kept.items() if name not in ("command", "working_dir")}
    if pool.type != "process":
        return kept
    variables = pool.base_job_template.get("variables", {}).get("properties", {})
    command = {} if variables.get("command", {}).get("default") else {"command": COMMAND}
    return {**command, **kept, "working_dir": str(Path.cwd())}


def _schedule(full: str, config: ScheduleConfig, slug: str) -> DeploymentScheduleCreate:
    try:
        return DeploymentScheduleCreate.from_schedule(
            Schedule(
                cron=config.cron,
                interval=config.interval,
                anchor_date=datetime(*ANCHOR, tzinfo=ZoneInfo(config.timezone)),
                timezone=config.timezone,
                active=config.active,
                parameters=config.parameters,
                slug=slug,
            )
        )
    except (ValidationError, ValueError) as error:
        raise StemmaError(f"{full}: {config.cron!r} is no schedule: {error}".splitlines()[0]) from error


def spread(entry: DeploymentConfig) -> list[DeploymentConfig]:
    """A deployment of every flow, where an entry names none.

    Raises:
        StemmaError: there is no such flow.
    """
    if entry.flow:
        flow_of(entry.flow)
        return [entry]
    return [entry.model_copy(update={"flow": flow.name}) for flow in FLOWS]


def register(root: Path, say: Callable[[str], None], file: Path | None = None) -> list[str]:
    """Create or update the process pool, its limit on trainings, a deployment per flow and profile, and what
    a file of deployments says.

    A profile that cannot be used is named and left out; the others are none the worse for it.

    Args:
        root: the folder of runs.
        say: receives lines for the person who asked.
        file: deployments and schedules; by default ``configs/deployments.yaml``.

    Returns:
        The deployments' full names.

    Raises:
        StemmaError: the file cannot be used.
    """
    standard = (DeploymentConfig(flow="", profile=profile) for profile in profile_names())
    entries = {
        (one.flow, one.profile, one.name or one.profile): one
        for entry in (*standard, *load_deployments(file))
        for one in spread(entry)
    }
    with get_client(sync_client=True) as client:
        pools.create(client, pools.pool(), RUNS_AT_ONCE)
        allow(client, POOL)
        return Registrar(client, root, file.name if file else DEPLOYMENTS, say).register_all(entries.values())
