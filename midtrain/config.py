"""Config of stages 3 and 4 and of trajectory synthesis."""

from typing import Self

from pydantic import Field, model_validator

from environments.config import EnvironmentConfig
from pretrain.config import PretrainConfig
from stemma.core.config import Config


class FamilyConfig(Config):
    """One family of trajectories: environments, how hard they are, and how many to make."""

    environments: tuple[EnvironmentConfig, ...] = Field(
        min_length=1, description="the tasks its experts solve, taken in turn"
    )
    count: int = Field(ge=1, description="trajectories to make")
    first_index: int = Field(0, ge=0, lt=1_000_000, description="index of the first task drawn")


class TrajectoriesConfig(Config):
    """What `TrajectoriesStage` makes."""

    families: dict[str, FamilyConfig] = Field(
        min_length=1, description="families by name; the name is also the source"
    )
    seed: int = Field(0, ge=0, description="seed of every task and expert")
    valid_fraction: float = Field(0.03, ge=0, lt=1, description="share of trajectories kept out of training")

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.families:
            if not name.isidentifier() or not name.islower():
                raise ValueError(f"family name {name!r}: lower-case letters, digits and '_' only")
        return self


class MidtrainConfig(PretrainConfig):
    """One mid-training stage: pretraining whose plan has phases of longer sequences."""

    rope_theta: dict[int, float] = Field(
        {}, description="rotary base by sequence length, where it is not the one of `training` or the model"
    )
