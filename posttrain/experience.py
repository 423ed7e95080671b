"""Experience: judged rollouts, and the record of them that training reads.

``rollouts.jsonl`` holds one line per rollout with all that an update needs. It is both the transcript of a
stage and the state a resumed stage continues from in the middle of a batch of rollouts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from posttrain.advantages import ADVANTAGES, informative
from posttrain.config import RLConfig
from posttrain.losses import kl_k3
from posttrain.rewards import reward
from posttrain.rollouts import Rollout
from pretrain.batch import Sample

import torch  # isort: skip


@dataclass
class Experience:
    """One judged rollout, as plain JSON.

    Attributes:
        batch: the batch of rollouts it belongs to, counted from 0.
        group: the prompt's place in that batch.
        task: name in the config; the source in the ledger.
        task_id: the environment's id of the task.
        prompt_ids: what the model read first.
        ids: what came after.
        mask: per id of ``ids``, 1 where the model sampled it.
        sampler_logprobs: per id of ``ids``, by the model that sampled.
        old_logprobs: the same by the trainer, before the updates; None where they are taken in the update
            itself.
        reference_logprobs: the same by the model RL started with; None where no divergence is charged.
        rewards: parts of the reward, and ``total``.
        advantage: of every sampled token.
        inconsistency: k3 between trainer and sampler over the *group's* sampled tokens; None: not looked at.
        left_out: why nothing is learned from it; "" if something is.
        truncated: it ended for lack of room.
        messages: what was said after the task's messages.
    """

    batch: int
    group: int
    task: str
    task_id: str
    prompt_ids: list[int]
    ids: list[int]
    mask: list[int]
    sampler_logprobs: list[float]
    old_logprobs: list[float] | None
    reference_logprobs: list[float] | None
    rewards: dict[str, float]
    advantage: float = 0.0
    inconsistency: float | None = None
    left_out: str = ""
    truncated: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A line of ``rollouts.jsonl``; floats survive the way there and back exactly."""
        return asdict(self)

    def sample(self) -> Sample:
        """The row an update reads: loss on sampled tokens only."""
        whole = np.array(self.prompt_ids + self.ids, dtype=np.int64)
        extra = {"advantages": self._row([self.advantage] * len(self.ids))}
        if self.old_logprobs is not None:
            extra["old_logprobs"] = self._row(self.old_logprobs)
        if self.reference_logprobs is not None:
            extra["reference_logprobs"] = self._row(self.reference_logprobs)
        pedigree = {"task": self.task_id, "batch": self.batch, "group": self.group}
        return Sample(
            self.task, whole[:-1], whole[1:], self._row([float(own) for own in self.mask]), pedigree, extra
        )

    def _row(self, values: Sequence[float]) -> np.ndarray:
        """fp32 values of the ids after the prompt, shifted to where they are predicted."""
        row = np.zeros(len(self.prompt_ids) + len(self.ids) - 1, dtype=np.float32)
        row[len(self.prompt_ids) - 1 :] = values
        return row


def judge(
    config: RLConfig, batch: int, names: Sequence[str], rollouts: Sequence[Rollout]
) -> list[Experience]:
    """Rewards and advantages of a batch of rollouts.

    Args:
        config: weights, estimator, group size.
        batch: its number.
        names: each rollout's task, by name.
        rollouts: group after group.
    """
    found = []
    for number, (name, rollout) in enumerate(zip(names, rollouts)):
        question = "\n".join(
            message["content"] for message in rollout.task.messages if message["role"] == "user"
        )
        parts = reward(config.rewards, rollout.score, question, rollout.text, rollout.sampled_ids)
        found.append(
            Experience(
                batch=batch,
                group=number // config.group_size,
                task=name,
                task_id=rollout.task.id,
                prompt_ids=rollout.prompt_ids,
                ids=rollout.ids,
                mask=rollout.mask,
                sampler_logprobs=rollout.logprobs,
                old_logprobs=None,
                reference_logprobs=None,
                rewards=parts,
                truncated=rollout.truncated,
                messages=rollout.messages,
            )
        )
    totals = np.array([experience.rewards["total"] for experience in found]).reshape(-1, config.group_size)
    advantages = ADVANTAGES[config.advantage](totals)
    useful = informative(totals)
    for number, experience in enumerate(found):
        group, place = divmod(number, config.group_size)
        experience.advantage = float(advantages[group, place])
        experience.left_out = "" if useful[group] else "equal rewards"
    return found


def leave_out_inconsistent(experiences: Sequence[Experience], limit: float) -> None:
    """Consistent sampling (Youtu-LLM's RL): leave out groups on which trainer and sampler disagree.

    ``K(q)``, the mean over the group's sampled tokens of ``r - 1 - log r`` with ``r = trainer / sampler``,
    must not exceed ``limit``. The paper gives no value for it, and does not say that the mean is over
    tokens.
    """
    groups: dict[int, list[Experience]] = {}
    for experience in experiences:
        groups.setdefault(experience.group, []).append(experience)
    for members in groups.values():
        if any(member.old_logprobs is None for member in members):
            raise ValueError(
                "consistency is measured against the trainer's log-probabilities, which are missing"
            )
        inconsistency = group_inconsistency(members)
        for member in members:
            member.inconsistency = inconsistency
            if inconsistency > limit and not member.left_out:
                member.left_out = "inconsistent"


def group_inconsistency(members: Sequence[Experience]) -> float:
    """``K(q)`` of one group, nats per token."""
    sampler = torch.tensor(
        [value for member in members for value in member.sampler_logprobs], dtype=torch.float64
    )
    trainer = torch.tensor(
        [value for member in members for value in member.old_logprobs or []], dtype=torch.float64
    )
    own = torch.tensor([value for member in members for value in member.mask], dtype=torch.bool)
    return float(kl_k3(sampler[own], trainer[own]).mean())
