"""Config of SFT, RL and export."""

from typing import Literal, Self

from pydantic import Field, model_validator

from environments.config import EnvironmentConfig
from pretrain.config import ModelConfig, TrainingConfig
from stemma.core.config import Config

# --- SFT ---------------------------------------------------------------------------------------------------


class SFTConfig(Config):
    """Supervised fine-tuning on conversations; loss on what the assistant wrote."""

    training: TrainingConfig = Field(description="how it trains; a batch counts conversations")
    steps: int = Field(ge=1, description="optimizer steps")
    families: dict[str, float] = Field(
        min_length=1, description="share of the conversations drawn from each trajectory family"
    )
    max_tokens: int = Field(
        ge=2, description="longest conversation used, tokens; longer ones are left out whole and counted"
    )
    seed: int = Field(0, ge=0, description="seed of the order of conversations")

    @model_validator(mode="after")
    def _weights(self) -> Self:
        for family, weight in self.families.items():
            if weight <= 0:
                raise ValueError(
                    f"the share of family {family!r} is {weight}; leave out what should not be used"
                )
        return self


class SFTStageConfig(Config):
    """What identifies an SFT artifact: the model's shape and the section ``sft`` of a profile."""

    model: ModelConfig = Field(description="the model's shape")
    sft: SFTConfig = Field(description="how it is fine-tuned")


# --- RL ----------------------------------------------------------------------------------------------------


class SamplingConfig(Config):
    """How the next token is drawn."""

    temperature: float = Field(1.0, ge=0, description="divides the logits; 0: the likeliest token always")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens that hold this mass")


class LossConfig(Config):
    """The policy-gradient loss, see ``posttrain/losses.py``."""

    name: Literal["grpo", "gppo", "ce_gppo"] = Field(
        "grpo",
        description="gradient of clipped tokens: none (grpo), bounded (gppo), bounded and scaled (ce_gppo)",
    )
    eps_low: float = Field(0.2, ge=0, lt=1, description="ratios may fall this far below 1")
    eps_high: float = Field(0.24, ge=0, description="ratios may rise this far above 1")
    dual_clip: float | None = Field(
        None, gt=1, description="largest ratio that counts where the advantage is negative; null: none"
    )
    beta_low: float = Field(
        0.75, ge=0, description="ce_gppo: scale of the gradient of clipped negative tokens"
    )
    beta_high: float = Field(
        1.0, ge=0, description="ce_gppo: scale of the gradient of clipped positive tokens"
    )
    kl: float = Field(
        0.0, ge=0, description="weight of the k3 estimate of the divergence from the model RL started with"
    )


class RewardConfig(Config):
    """Weights of a reward's parts, see ``posttrain/rewards.py``."""

    score: float = Field(1.0, gt=0, description="weight of the task's own score, which is in [0, 1]")
    language: float = Field(0.1, ge=0, description="weight of the penalty for answering in another script")
    repetition: float = Field(0.1, ge=0, description="weight of the penalty for repeating n-grams")
    repetition_ngram: int = Field(4, ge=1, description="tokens of an n-gram")
    repetition_tolerance: float = Field(
        0.3, ge=0, lt=1, description="share of repeated n-grams that is not yet penalized"
    )


class RLTaskConfig(Config):
    """Prompts of one environment."""

    environment: EnvironmentConfig = Field(description="where prompts come from and what scores the answers")
    prompts: int = Field(ge=1, description="prompts in every batch of rollouts")
    max_new_tokens: int = Field(ge=1, description="tokens the model may write per turn")
    max_turns: int = Field(1, ge=1, description="assistant turns of an episode; above 1 for tasks with tools")


class RLConfig(Config):
    """Reinforcement learning from verifiable rewards."""

    training: TrainingConfig = Field(
        description="how it trains; a batch counts rollouts, before any are left out"
    )
    tasks: dict[str, RLTaskConfig] = Field(
        min_length=1, description="tasks by name; the name is also the source"
    )
    rollout_batches: int = Field(ge=1, description="times the model is sampled")
    group_size: int = Field(ge=2, description="rollouts of each prompt")
    updates: int = Field(
        1, ge=1, description="optimizer steps per batch of rollouts, each on its share of the prompts"
    )
    sampling: SamplingConfig = Field(SamplingConfig(), description="how rollouts are sampled")
    advantage: Literal["grpo", "dr_grpo", "rloo"] = Field(
        "grpo", description="how rewards of a group become advantages, see posttrain/advantages.py"
    )
    loss: LossConfig = Field(LossConfig(), description="the policy-gradient loss, a mean over sampled tokens")
    rewards: RewardConfig = Field(RewardConfig(), description="what a rollout is rewarded for")
    consistency: float | None = Field(
        None,
        gt=0,
        description="tau_K: groups on which sampler and trainer differ by more (k3, nats per token) are left "
        "out; null: not looked at",
    )
    seed: int = Field(0, ge=0, description="seed of the tasks and of sampling")

    @property
    def prompts(self) -> int:
        """Prompts in a batch of rollouts."""
        return sum(task.prompts for task in self.tasks.values())

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.rollout_batches * self.updates

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.tasks:
            if not name.isidentifier() or not name.islower():
                raise ValueError(f"task name {name!r}: lower-case letters, digits and '_' only")
        if self.prompts % self.updates:
            raise ValueError(
                f"{self.prompts} prompts per batch cannot be split into {self.updates} updates evenly"
            )
        expected = self.prompts // self.updates * self.group_size
        if self.training.global_batch_size != expected:
            raise ValueError(
                f"training.global_batch_size is {self.training.global_batch_size}, but {self.prompts} "
                f"prompts / {self.updates} updates x {self.group_size} rollouts make {expected}"
            )
        return self


class RLStageConfig(Config):
    """What identifies an RL artifact: the model's shape and the section ``rl`` of a profile."""

    model: ModelConfig = Field(description="the model's shape")
    rl: RLConfig = Field(description="how it is trained")


# --- export ------------------------------------------------------------------------------------------------


class ExportConfig(Config):
    """The exported folder: what its model card says, and how `generate` samples by default."""

    title: str = Field(min_length=1, description="heading of the model card")
    description: str = Field("", description="a paragraph for the card: what this model is for")
    licence: str = Field(
        "other", description="licence of the weights, as model hubs name it; see the sources' too"
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature in generation_config.json")
    top_k: int = Field(20, ge=0, description="draw from this many likeliest tokens; 0: all")
    top_p: float = Field(0.95, gt=0, le=1, description="draw from the likeliest tokens that hold this mass")
