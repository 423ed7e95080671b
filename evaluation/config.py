"""Which tasks a model is scored on after a stage, and how it answers. Torch-free."""

from typing import Self

from pydantic import Field, model_validator

from environments.config import EnvironmentConfig
from stemma.core.config import Config


class TaskConfig(Config):
    """One task: held-out items of one environment."""

    environment: EnvironmentConfig = Field(description="where the items come from and what scores them")
    items: int = Field(
        ge=1,
        description="distinct held-out questions, the same ones for every stage of a run; fewer where the "
        "environment has fewer",
    )
    max_new_tokens: int = Field(ge=1, description="tokens the model may write per turn")
    max_turns: int = Field(1, ge=1, description="assistant turns per item; above 1 for tasks with tools")


class EvaluationConfig(Config):
    """What `EvaluationStage` measures."""

    tasks: dict[str, TaskConfig] = Field(min_length=1, description="tasks by name")
    temperature: float = Field(0.0, ge=0, description="0: greedy, the likeliest token always")
    seed: int = Field(7, ge=0, description="seed of the items and of sampling; keep it apart from training's")
    samples: int = Field(3, ge=0, description="transcripts per task that are kept to read")
    batch_size: int = Field(128, ge=1, description="items answered side by side, over all tasks")

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.tasks:
            if not name.isidentifier() or not name.islower():
                raise ValueError(f"task name {name!r}: lower-case letters, digits and '_' only")
        return self
