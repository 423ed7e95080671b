"""SFT: the model learns to answer as the verified trajectories do."""

from typing import Any, ClassVar, cast

from posttrain.config import SFTStageConfig
from pretrain.branch import go_on
from pretrain.launch import launch
from stemma.core.stage import Stage, Workspace


class SFTStage(Stage):
    """Fine-tunes on conversations, with loss on what the assistant wrote, end of turn included.

    Inputs: ``init`` (the stage before), ``tokenizer``, ``trajectories``, and ``tokens`` and
        ``agent_tokens``, whose held-out text bits per byte are measured on; ``branch``: a checkpoint of
        another run that it goes on from.
    """

    kind: ClassVar[str] = "sft"
    recipe: ClassVar[int] = 1

    def run(self, work: Workspace) -> dict[str, Any]:
        """See ``Stage.run``; the work is done by ``posttrain.sft_objective`` in the training processes."""
        config = cast(SFTStageConfig, self.config)
        before = go_on(self, work, config.model, config.sft.training, config.sft.steps)
        return launch(
            self.name,
            work,
            "posttrain.sft_objective:fine_tuning",
            {
                "trajectories": str(self.inputs["trajectories"].file("trajectories.jsonl")),
                "sft": config.sft.model_dump(mode="json"),
                "before": [[stretch.until, stretch.config["sft"]] for stretch in before],
            },
            model=config.model,
            training=config.sft.training,
            tokenizer=self.inputs["tokenizer"].path,
            init=self.inputs["init"].path,
            validation=[self.inputs[role].path for role in ("tokens", "agent_tokens") if role in self.inputs],
        )
