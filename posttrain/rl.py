"""RL from verifiable rewards: the model answers, scorers judge, and the better answers become likelier."""

from typing import Any, ClassVar, cast

from posttrain.config import RLStageConfig
from pretrain.branch import go_on
from pretrain.launch import launch
from stemma.core.errors import StemmaError
from stemma.core.stage import Stage, Workspace


class RLStage(Stage):
    """Trains on the model's own rollouts in environments.

    Inputs: ``init`` (the stage before), ``tokenizer``, and ``tokens`` and ``agent_tokens``, whose held-out
        text bits per byte are measured on; ``branch``: a checkpoint of another run that it goes on from.

    Leaves ``rollouts.jsonl`` besides what every training stage leaves: each rollout with its ids, rewards and
    advantage.
    """

    kind: ClassVar[str] = "rl"
    recipe: ClassVar[int] = 1

    def run(self, work: Workspace) -> dict[str, Any]:
        """See ``Stage.run``; the work is done by ``posttrain.rl_objective`` in the training processes."""
        config = cast(RLStageConfig, self.config)
        before = go_on(self, work, config.model, config.rl.training, config.rl.steps)
        if before and before[-1].config["rl"]["updates"] != config.rl.updates:
            raise StemmaError(
                f"rl.updates is {config.rl.updates}, and was {before[-1].config['rl']['updates']} in the "
                "steps done: batches of rollouts would be counted otherwise. Leave it, or branch at the "
                f"stage's beginning (--start-from {self.name})"
            )
        return launch(
            self.name,
            work,
            "posttrain.rl_objective:policy_gradient",
            {"rl": config.rl.model_dump(mode="json")},
            model=config.model,
            training=config.rl.training,
            tokenizer=self.inputs["tokenizer"].path,
            init=self.inputs["init"].path,
            validation=[self.inputs[role].path for role in ("tokens", "agent_tokens") if role in self.inputs],
        )
