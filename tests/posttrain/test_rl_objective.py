import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from environments.base import Environment, Message, Script, Task, assistant
from environments.catalog import make_environments
from posttrain.config import RLConfig
from posttrain.experience import Experience, group_inconsistency, leave_out_inconsistent
from posttrain.rl_objective import PolicyGradient
from posttrain.rollouts import token_logprobs
from pretrain.engine import Engine
from stemma.core.files import read_jsonl
from stemma.core.ledger import Ledger, compare


class Digits(Environment):
    """Rewards the share of digits in what is written, which a random model can improve at in a few steps."""

    name = "digits"

    def task(self, seed: int, index: int) -> Task:
        question = {"role": "user", "content": f"Write digits, {seed} {index}."}
        return Task(f"digits:{seed}:{index}", self.name, seed, index, (question,), (), "1")

    def script(self, task: Task) -> Script:
        yield assistant("1")

    def score_many(self, episodes: Sequence[tuple[Task, Sequence[Message]]]) -> list[float]:
        texts = [messages[-1]["content"] for _, messages in episodes]
        return [sum(char.isdigit() for char in text) / max(1, len(text)) for text in texts]


@pytest.fixture
def make(
    engine: Engine, rl_config: Callable[..., RLConfig], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., PolicyGradient]:
    def build(environments: dict[str, Environment] | None = None, **changes: Any) -> PolicyGradient:
        config = rl_config(**changes)
        if environments is None:
            environments = make_environments({name: task.environment for name, task in config.tasks.items()})
        return PolicyGradient(engine, config, tokenizer, environments, tmp_path / "rollouts.jsonl")

    return build


def digits(**changes: Any) -> dict[str, Any]:
    task = {"environment": {"kind": "reasoning", "dataset": "coin_flip"}, "prompts": 4, "max_new_tokens": 8}
    training = {"global_batch_size": 32, "micro_batch_size": 8, "schedule": {"peak_lr": 1e-3}}
    settings = {"tasks": {"digits": task}, "group_size": 8, "updates": 1, "rollout_batches": 20}
    return {"environments": {"digits": Digits()}, "training": training, **settings, **changes}


def train(engine: Engine, objective: PolicyGradient, steps: int, lr: float) -> list[float]:
    rewards = []
    for step in range(steps):
        batch = objective.batch(step, engine)
        rewards.append(batch.metrics["reward"])
        engine.train_step(batch, objective.loss, lr)
    return rewards


@pytest.mark.parametrize("loss", ["grpo", "gppo"])
def test_rewards_rise(engine: Engine, make: Callable[..., PolicyGradient], loss: str) -> None:
    rewards = train(engine, make(**digits(loss={"name": loss})), 12, 5e-3)
    assert np.mean(rewards[-3:]) > 2 * np.mean(rewards[:3]) + 0.05


def test_samples_hold_what_was_sampled(engine: Engine, make: Callable[..., PolicyGradient]) -> None:
    objective = make(updates=1, training={"global_batch_size": 24, "schedule": {"peak_lr": 1e-3}})
    batch = objective.batch(0, engine)
    experiences = objective.experiences
    assert len(experiences) == 24
    assert {one.task for one in experiences} == {"coins", "spell", "maths"}
    for one in experiences:
        sample = one.sample()
        start = len(one.prompt_ids) - 1
        assert sample.tokens.tolist() == (one.prompt_ids + one.ids)[:-1]
        assert sample.labels.tolist() == (one.prompt_ids + one.ids)[1:]
        assert not sample.loss_mask[:start].any()
        assert sample.loss_mask[start:].tolist() == one.mask
        assert np.allclose(sample.extra["advantages"][start:], one.advantage)
    kept = [one for one in experiences if not one.left_out]
    assert sum(samples for samples, _, _ in batch.counts.values()) == len(kept)
    assert batch.denominator == max(1, sum(sum(one.mask) for one in kept))


def test_sampler_trainer_and_forward_pass_agree_on_logprobs(
    engine: Engine, make: Callable[..., PolicyGradient]
) -> None:
    objective = make(**digits(consistency=1e-3))
    objective.batch(0, engine)
    assert objective.sampler is not None
    for one in objective.experiences:
        [whole] = token_logprobs(objective.sampler, [one.prompt_ids + one.ids], 1)
        assert whole[len(one.prompt_ids) - 1 :].tolist() == pytest.approx(one.sampler_logprobs, abs=1e-4)
        if one.old_logprobs is not None:
            assert one.old_logprobs == pytest.approx(one.sampler_logprobs, abs=1e-4)
            assert one.inconsistency is not None
            assert 0 <= one.inconsistency < 1e-6


def test_rollouts_follow_the_current_weights(engine: Engine, make: Callable[..., PolicyGradient]) -> None:
    objective = make(**digits())
    train(engine, objective, 2, 1e-2)
    assert objective.sampler is not None
    before = copy.deepcopy(objective.sampler.state_dict())
    objective.batch(2, engine)
    now = engine.hf_state_dict()
    for name, tensor in objective.sampler.named_parameters():
        assert torch.equal(tensor, now[name])
    assert any(not torch.equal(before[name], tensor) for name, tensor in now.items())


def test_on_policy_the_gradient_is_reinforce(engine: Engine, make: Callable[..., PolicyGradient]) -> None:
    objective = make(**digits())
    micro = objective.batch(0, engine).micro[0]
    logits = torch.randn(*micro.tokens.shape, engine.model.vocab_size)
    leaf = logits.clone().requires_grad_()
    objective.loss(leaf * 1.0, micro)[0].backward()
    twin = logits.clone().requires_grad_()
    logprobs = torch.log_softmax(twin, -1).gather(-1, micro.labels[..., None]).squeeze(-1)
    (-micro.extra["advantages"] * logprobs * micro.loss_mask).sum().backward()
    torch.testing.assert_close(leaf.grad, twin.grad)


def test_the_ledger_of_recorded_rollouts_is_what_was_trained_on(
    engine: Engine, make: Callable[..., PolicyGradient]
) -> None:
    objective = make()
    realized = Ledger(objective.planned(0).domains)
    for step in range(objective.total_steps):
        batch = objective.batch(step, engine)
        engine.train_step(batch, objective.loss, 1e-3)
        for task, counts in batch.counts.items():
            realized.record(task, *counts)
        compare(objective.planned(step + 1), realized)
    lines = list(read_jsonl(objective.path))
    assert len(lines) == 4 * 24
    kept = [line for line in lines if not line["left_out"]]
    assert sum(count.supervised for count in realized.counts.values()) == sum(
        sum(line["mask"]) for line in kept
    )


def test_a_batch_begun_before_a_crash_is_read_back(
    engine: Engine, make: Callable[..., PolicyGradient]
) -> None:
    """The second update's batch is the same whether its rollouts are in memory or on disk."""
    objective = make()
    for step in range(2):
        engine.train_step(objective.batch(step, engine), objective.loss, 1e-2)
    engine.train_step(objective.batch(2, engine), objective.loss, 1e-2)
    state = objective.state_dict()
    expected = objective.batch(3, engine)
    objective.batch(4, engine)  # more was recorded before the crash
    successor = make()
    successor.load_state_dict(state)
    found = successor.batch(3, engine)
    assert found.sha256 == expected.sha256
    assert found.metrics == expected.metrics
    assert len(list(read_jsonl(successor.path))) == 48  # what came after the checkpoint is cut off


def test_a_batch_without_differences_teaches_nothing_and_does_not_fail(
    engine: Engine, make: Callable[..., PolicyGradient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "score_many", lambda self, episodes: [1.0] * len(episodes))
    objective = make(**digits(rewards={"language": 0.0, "repetition": 0.0}))
    batch = objective.batch(0, engine)
    assert batch.counts == {}
    assert batch.metrics["kept"] == 0
    result = engine.train_step(batch, objective.loss, 1e-3)
    assert result.loss == 0
    assert result.grad_norm == 0
    assert {one.left_out for one in objective.experiences} == {"equal rewards"}


def test_divergence_from_the_first_model_is_charged(
    engine: Engine, rl_config: Callable[..., RLConfig], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    settings = digits(loss={"kl": 0.5})
    environments = settings.pop("environments")
    objective = PolicyGradient(engine, rl_config(**settings), tokenizer, environments, tmp_path / "r.jsonl")
    objective.reference = copy.deepcopy(objective.sampler)
    engine.sync_hf(objective.reference)
    first = engine.train_step(objective.batch(0, engine), objective.loss, 3e-2)
    second = engine.train_step(objective.batch(1, engine), objective.loss, 3e-2)
    kept = [one for one in objective.experiences if not one.left_out]
    for one in kept:
        assert one.reference_logprobs is not None
        assert len(one.reference_logprobs) == len(one.ids)
    assert (
        abs(first.loss) < 0.05
    )  # on policy, advantages cancel but for lengths, and there is no divergence yet
    assert second.loss > 0.02  # now there is


def experience(group: int, sampler: list[float], trainer: list[float]) -> Experience:
    mask = [1] * len(sampler)
    return Experience(0, group, "t", "t", [1], mask, mask, sampler, trainer, None, {"total": 0.0})


def test_inconsistent_groups_are_left_out_whole() -> None:
    same = [experience(0, [-1.0, -2.0], [-1.0, -2.0]), experience(0, [-3.0], [-3.0])]
    apart = [experience(1, [-1.0, -2.0], [-1.0, -2.0]), experience(1, [-3.0], [-2.0])]
    leave_out_inconsistent([*same, *apart], 0.1)
    assert [one.left_out for one in [*same, *apart]] == ["", "", "inconsistent", "inconsistent"]
    assert same[0].inconsistency == 0
    assert group_inconsistency(apart) == pytest.approx((math.e - 1 - 1) / 3)
    with pytest.raises(ValueError, match="missing"):
        leave_out_inconsistent([Experience(0, 0, "t", "t", [1], [1], [1], [0.0], None, None, {})], 0.1)
