"""Stages 3 and 4: long context and agentic mid-training."""

from typing import Any, ClassVar, cast

from midtrain.config import MidtrainConfig
from pretrain.stage import PretrainStage


class MidtrainStage(PretrainStage):
    """Pretraining with growing phases: lengths come from the plan, rotary bases from the config."""

    kind: ClassVar[str] = "midtrain"
    recipe: ClassVar[int] = 1

    def long_context(self) -> dict[str, Any]:
        config = cast(MidtrainConfig, self.config)
        return {"rope_theta": {str(length): theta for length, theta in config.rope_theta.items()}}
