"""Stages 1 and 2: language-model pretraining over a plan."""

from typing import Any, ClassVar, cast

from pretrain.config import PretrainConfig
from pretrain.launch import launch
from stemma.core.stage import Stage, Workspace


class PretrainStage(Stage):
    """Trains on the samples of a plan.

    Inputs: ``plan``, ``tokens``, ``tokenizer``, optionally ``agent_tokens`` (more sources) and ``init`` (the stage
    before; without it, weights are drawn from ``training.seed``).
    """

    kind: ClassVar[str] = "pretrain"
    recipe: ClassVar[int] = 1

    def run(self, work: Workspace) -> dict[str, Any]:
        config = cast(PretrainConfig, self.config)
        tokens = [self.inputs[role].path for role in ("tokens", "agent_tokens") if role in self.inputs]
        return launch(
            self.name,
            work,
            "pretrain.objective:language_model",
            {
                "plan": str(self.inputs["plan"].path),
                "tokens": [str(folder) for folder in tokens],
                **self.long_context(),
            },
            model=config.model,
            training=config.training,
            tokenizer=self.inputs["tokenizer"].path,
            init=self.inputs["init"].path if "init" in self.inputs else None,
            validation=tokens,
        )

    def long_context(self) -> dict[str, Any]:
        """Further arguments of the objective; ``MidtrainStage`` gives the rotary bases of its longer phases."""
        return {}
