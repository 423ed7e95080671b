"""What happens when a step goes wrong."""

from typing import Literal

from pydantic import Field

from stemma.core.config import Config

Policy = Literal["skip", "rewind", "stop"]


class GuardConfig(Config):
    """Guards of a stage: what counts as a step gone wrong, and what is done about it."""

    not_finite: Policy = Field("skip", description="loss or gradient is NaN or infinite")
