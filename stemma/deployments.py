"""What ``stemma ui`` and ``stemma deploy`` register at the Prefect server beside a form per flow and profile:
schedules, and deployments of one's own. A YAML file says it (``configs/deployments.yaml``).
"""

import importlib.resources
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, field_validator, model_validator

from stemma.core.config import Config
from stemma.core.errors import ProfileError
from stemma.profile import DEPLOYMENTS, explain, load_yaml

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class ScheduleConfig(Config):
    """When a deployment is run by itself."""

    cron: str | None = Field(
        None,
        pattern=r"^\S+( \S+){4}$",
        description="minute, hour, day of the month, month, day of the week; `0 3 * * 1-5`: workdays at 3:00",
    )
    every: str | None = Field(
        None,
        pattern=r"^[1-9]\d{0,3}[mhdw]$",
        description="an interval instead: `30m`, `6h`, `1d`, `2w`; counted from a Monday, 0:00",
    )
    timezone: str = Field("UTC", description="IANA name of the time zone, such as Europe/Berlin")
    active: bool = Field(True, description="false: shown in the UI, where it can be switched on")
    parameters: dict[str, Any] = Field({}, description="what differs from the deployment's own parameters")

    def __str__(self) -> str:
        """The schedule in words: what the UI calls it."""
        when = self.cron or f"every {self.every}"
        return f"{when} {self.timezone}" + (", other parameters" if self.parameters else "")

    @property
    def interval(self) -> timedelta | None:
        """``every`` as a duration."""
        if self.every is None:
            return None
        return timedelta(**{UNITS[self.every[-1]]: int(self.every[:-1])})

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, OSError, ValueError) as error:  # no such zone; a folder of zones; no name at all
            raise ValueError(f"there is no time zone {name!r}; names look like Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError("give either cron or every")
        return self


class DeploymentConfig(Config):
    """A flow with a profile, under a name of its own or as a change to the one there is."""

    flow: str = Field(description="the flow: pipeline, a stage group, or inspect-mix; empty: every one")
    profile: str = Field(description="a profile's name, or the path of a .yaml")
    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="name of the deployment; empty: the profile's, which every flow has anyway",
    )
    parameters: dict[str, Any] = Field({}, description="what the form is filled in with, by its names")
    schedules: tuple[ScheduleConfig, ...] = Field((), description="when it is run by itself")
    pool: str = Field("", description="work pool; empty: the one it has, at first the process pool")
    tags: tuple[str, ...] = Field((), description="tags beside the profile's and the flow's name")


class DeploymentsConfig(Config):
    """A file of deployments."""

    deployments: tuple[DeploymentConfig, ...] = Field((), description="deployments and their schedules")


def schedule(cron: str, every: str, timezone: str = "UTC", active: bool = True) -> ScheduleConfig | None:
    """A schedule as the command line takes it; None where neither is given.

    Raises:
        ProfileError: it is none.
    """
    if not cron and not every:
        return None
    try:
        return ScheduleConfig(cron=cron or None, every=every or None, timezone=timezone, active=active)
    except ValidationError as error:
        raise ProfileError("schedule", list(explain(error))) from error


def load_deployments(path: Path | None = None) -> tuple[DeploymentConfig, ...]:
    """Read a file of deployments.

    Args:
        path: the file; by default the one that comes with stemma.

    Raises:
        ProfileError: every problem at once, each with its path.
    """
    path = path or Path(str(importlib.resources.files("configs") / DEPLOYMENTS))
    try:
        return DeploymentsConfig.model_validate(load_yaml(path, empty=True)).deployments
    except ValidationError as error:
        raise ProfileError(str(path), list(explain(error))) from error
