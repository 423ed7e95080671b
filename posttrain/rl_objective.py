"""The RL objective: sample the current model, judge, and follow the policy gradient.

Rollouts come from transformers on rank 0, with the engine's weights copied over; the other ranks are told
the result. That is right on any topology, and slow on large ones. A batch of rollouts is a function of the
weights and its number alone, so a stage that was killed repeats what it lost; between the updates of one
batch, where the weights are no longer those that sampled, the rollouts are read back from
``rollouts.jsonl``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, YoutuForCausalLM

from data_pipeline.permutation import derive_key
from environments.base import FIRST_INDEX, Environment
from environments.catalog import make_environments
from posttrain.config import RLConfig
from posttrain.experience import Experience, judge, leave_out_inconsistent
from posttrain.load import load_model
from posttrain.losses import LOSSES, kl_k3
from posttrain.padded import padded_batch, without_loss
from posttrain.rollouts import Request, play, token_logprobs
from pretrain.batch import MicroBatch, StepBatch
from pretrain.convert import hf_config
from pretrain.engine import Engine
from pretrain.launch import Job
from pretrain.receipts import JsonlLog
from stemma.core.files import read_jsonl
from stemma.core.ledger import Ledger
from tokenizer.load import load

DOMAIN = "agent"


class PolicyGradient:
    """Trains on rollouts of its own.

    Args:
        engine: the model; its weights at a batch's first update make the rollouts.
        config: tasks, group size, losses.
        tokenizer: of the model.
        environments: by task name.
        log: where rollouts are recorded, ``rollouts.jsonl``.
        reference: the model RL started with; needed on rank 0 if ``config.loss.kl`` is above 0.
    """

    def __init__(
        self,
        engine: Engine,
        config: RLConfig,
        tokenizer: PreTrainedTokenizerFast,
        environments: dict[str, Environment],
        log: Path,
        reference: PreTrainedModel | None = None,
    ) -> None:
        self.engine, self.config, self.tokenizer, self.environments = engine, config, tokenizer, environments
        self.total_steps = config.steps
        self.path = log
        self.log: JsonlLog | None = None
        self.reference = reference
        self.sampler = (
            YoutuForCausalLM(hf_config(engine.model, engine.rope_theta)).eval() if engine.rank == 0 else None
        )
        if self.sampler is not None:  # sampling takes long, and is no hang
            self.sampler.register_forward_hook(lambda *_: engine.alive())
        self.experiences: list[Experience] = []
        self.recorded = Ledger(dict.fromkeys(config.tasks, DOMAIN))

    def batch(self, step: int, engine: Engine) -> StepBatch:
        """Rollouts of the weights as they are, or the next share of those sampled before."""
        number, update = divmod(step, self.config.updates)
        if update == 0:
            self.experiences = self._experience(number)
        elif not self.experiences:
            self.experiences = self._read_back(number)
        mine = [one for one in self.experiences if one.group % self.config.updates == update]
        samples = [one.sample() for one in mine if not one.left_out]
        for one in mine:
            if not one.left_out:
                self.recorded.record(one.task, 1, len(one.prompt_ids) + len(one.ids) - 1, sum(one.mask))
        rows = self.config.training.micro_batch_size
        if samples:
            batch = padded_batch(samples, rows, engine.data_rank, engine.data_size)
        else:  # nothing to learn: the step happens all the same, with no gradient
            batch = padded_batch([without_loss(mine[0].sample())], rows, engine.data_rank, engine.data_size)
            batch.counts, batch.denominator = {}, 1.0
        batch.metrics = figures(self.experiences) | {"kept": len(samples) / len(mine)}
        return batch

    def loss(self, output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy-gradient loss summed over sampled tokens; also the k3 estimate of how far the policy
        has moved since the rollouts, and the share of clipped tokens."""
        config = self.config.loss
        logprobs = self.engine.token_logprobs(output, micro.labels)
        old = micro.extra.get("old_logprobs", logprobs.detach())
        advantages = micro.extra["advantages"]
        loss = LOSSES[config.name](logprobs, old, advantages, config)
        if config.kl:
            loss = loss + config.kl * kl_k3(logprobs, micro.extra["reference_logprobs"])
        with torch.no_grad():
            ratio = (logprobs - old).exp()
            clipped = ((advantages > 0) & (ratio > 1 + config.eps_high)) | (
                (advantages < 0) & (ratio < 1 - config.eps_low)
            )
            sums = {"moved": kl_k3(old, logprobs), "clipped": clipped.float()}
        return (loss * micro.loss_mask).sum(), {
            name: (value * micro.loss_mask).sum() for name, value in sums.items()
        }

    def planned(self, step: int) -> Ledger:
        """What the recorded rollouts of the steps so far hold: nobody can know before they are sampled."""
        return self.recorded

    def state_dict(self) -> dict[str, Any]:
        """Where the record of rollouts ends, and what it counted."""
        position = self.log.sync() if self.log else None
        return {"rollouts": position, "recorded": self.recorded.to_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the record back to the checkpoint."""
        known = Ledger.from_json(state["recorded"])  # of other tasks, where it goes on from another run
        self.recorded = Ledger(self.recorded.domains | known.domains, known.counts)
        if self.engine.rank == 0 and state["rollouts"]:
            self.log = JsonlLog(self.path, state["rollouts"])

    # --- sampling ---

    def _experience(self, number: int) -> list[Experience]:
        """Sample, judge and record one batch of rollouts; the same on every rank."""
        self.engine.sync_hf(self.sampler)  # on every rank: each holds a part of the weights
        lines = [one.to_json() for one in self._sample(number)] if self.engine.rank == 0 else []
        experiences = [Experience(**line) for line in of_rank_0(lines)]
        if self.config.updates > 1 or self.config.consistency is not None:
            self._take_old_logprobs([one for one in experiences if not one.left_out])
        if self.config.consistency is not None:
            leave_out_inconsistent([one for one in experiences if not one.left_out], self.config.consistency)
        if self.engine.rank == 0:
            self.log = self.log or JsonlLog(self.path)
            for one in experiences:
                self.log.append(one.to_json())
        return experiences

    def _sample(self, number: int) -> list[Experience]:
        """Play one batch of episodes with the weights in ``self.sampler``."""
        assert self.sampler is not None
        names = [
            name
            for name, task in self.config.tasks.items()
            for _ in range(task.prompts * self.config.group_size)
        ]
        rollouts = play(self.sampler, self.tokenizer, self._requests(number), self.config.sampling)
        experiences = judge(self.config, number, names, rollouts)
        if self.config.loss.kl:
            assert self.reference is not None
            kept = [one for one in experiences if not one.left_out]
            whole = [one.prompt_ids + one.ids for one in kept]
            for one, row in zip(
                kept, token_logprobs(self.reference, whole, self.config.training.micro_batch_size)
            ):
                one.reference_logprobs = row[len(one.prompt_ids) - 1 :].tolist()
        return experiences

    def _requests(self, number: int) -> list[Request]:
        """The prompts of a batch, each as often as a group is large: a function of its number alone."""
        requests = []
        for name, task in self.config.tasks.items():
            environment = self.environments[name]
            for prompt in range(task.prompts):
                index = FIRST_INDEX["rl"] + number * task.prompts + prompt
                drawn = environment.draw(self.config.seed, index)
                requests += [
                    Request(
                        task=drawn,
                        environment=environment,
                        seed=derive_key(self.config.seed, number, name, prompt, sample),
                        max_new_tokens=task.max_new_tokens,
                        max_turns=min(task.max_turns, environment.max_turns),
                    )
                    for sample in range(self.config.group_size)
                ]
        return requests

    def _take_old_logprobs(self, experiences: Sequence[Experience]) -> None:
        """Note what the trainer itself thinks of the sampled tokens, before it changes."""
        by_length = sorted(experiences, key=lambda one: -len(one.prompt_ids) - len(one.ids))
        rows = self.config.training.micro_batch_size
        for start in range(0, len(by_length), rows):
            members = by_length[start : start + rows]
            whole = [one.prompt_ids + one.ids for one in members]
            width = max(map(len, whole))
            tokens = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in whole])
            found = self.engine.token_logprobs_no_grad(tokens.to(self.engine.device)).cpu()
            for one, ids, row in zip(members, whole, found):
                own = row[len(one.prompt_ids) - 1 : len(ids) - 1] * torch.tensor(one.mask)
                one.old_logprobs = own.tolist()

    def _read_back(self, number: int) -> list[Experience]:
        """The rollouts of a batch that was begun before this process."""
        lines = []
        if self.engine.rank == 0:
            lines = [line for line in read_jsonl(self.path) if line["batch"] == number]
        return [Experience(**line) for line in of_rank_0(lines)]


def of_rank_0(value: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank 0's value, on every rank."""
    if dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def figures(experiences: Sequence[Experience]) -> dict[str, float]:
    """Means over a batch of rollouts, for people."""
    found: dict[str, list[float]] = {}
    for one in experiences:
        found.setdefault("reward", []).append(one.rewards["total"])
        found.setdefault(f"score/{one.task}", []).append(one.rewards["score"])
        found.setdefault("sampled_tokens", []).append(float(sum(one.mask)))
        found.setdefault("truncated", []).append(float(one.truncated))
        if one.inconsistency is not None:
            found.setdefault("inconsistency", []).append(one.inconsistency)
    return {name: sum(values) / len(values) for name, values in found.items()}


def policy_gradient(job: Job, engine: Engine) -> PolicyGradient:
    """The entry of RL jobs. ``job.arguments``: ``rl`` (an ``RLConfig`` as JSON)."""
    config = RLConfig.model_validate(job.arguments["rl"])
    environments: dict[str, Environment] = {}
    if engine.rank == 0:
        configs = {name: task.environment for name, task in config.tasks.items()}
        environments = make_environments(configs, job.execution.sandbox)
    reference = None
    if config.loss.kl and engine.rank == 0:
        assert job.init is not None
        reference = load_model(Path(job.init).parent / "hf", dtype=torch.float32)
    return PolicyGradient(
        engine,
        config,
        load(Path(job.tokenizer) / "hf"),
        environments,
        Path(job.path) / "rollouts.jsonl",
        reference,
    )
