from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from posttrain.config import SFTConfig
from posttrain.conversations import Conversation, read_conversations
from posttrain.sft_objective import FineTuning
from pretrain.engine import Engine
from stemma.core.artifact import Artifact
from stemma.core.ledger import Ledger, compare

Conversations = dict[str, list[Conversation]]


@pytest.fixture(scope="module")
def conversations(trajectories: Artifact, tokenizer: PreTrainedTokenizerFast) -> Conversations:
    path = trajectories.file("trajectories.jsonl")
    return read_conversations(path, tokenizer, ("coins", "maths", "spell"), 512)[0]


@pytest.fixture
def objective(
    engine: Engine, sft_config: Callable[..., SFTConfig], conversations: Conversations
) -> FineTuning:
    return FineTuning(engine, sft_config(), conversations)


def test_the_loss_falls_and_planned_counts_are_realized(engine: Engine, objective: FineTuning) -> None:
    realized = Ledger(objective.planned(0).domains)
    losses = []
    for step in range(objective.total_steps):
        batch = objective.batch(step, engine)
        losses.append(engine.train_step(batch, objective.loss, 3e-3).loss)
        for family, counts in batch.counts.items():
            realized.record(family, *counts)
        compare(objective.planned(step + 1), realized)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    samples = {family: count.samples for family, count in realized.counts.items()}
    assert samples == {"coins": 48, "maths": 29, "spell": 19}  # half, three tenths, a fifth of 96
    assert all(0 < count.supervised < count.tokens for count in realized.counts.values())


def test_batches_are_a_function_of_the_step(engine: Engine, objective: FineTuning) -> None:
    hashes = [objective.batch(step, engine).sha256 for step in range(objective.total_steps)]
    assert objective.batch(7, engine).sha256 == hashes[7]
    assert len(set(hashes)) == len(hashes)


def test_only_the_assistants_tokens_reach_the_gradient(engine: Engine, objective: FineTuning) -> None:
    """Other labels change nothing: neither the loss nor its gradient."""
    micro = objective.batch(0, engine).micro[0]
    logits = torch.randn(*micro.tokens.shape, engine.model.vocab_size)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = logits.clone().requires_grad_()
        loss, _ = objective.loss(leaf * 1.0, micro)
        loss.backward()
        return loss.detach(), leaf.grad

    loss, grad = run()
    own = micro.loss_mask > 0
    assert (grad[~own] == 0).all()
    assert (grad[own].abs().sum(dim=-1) > 0).all()
    micro.labels[~own] = (micro.labels[~own] + 1) % engine.model.vocab_size
    again, grad_again = run()
    assert torch.equal(loss, again)
    assert torch.equal(grad, grad_again)


def test_padding_and_neighbours_do_not_change_the_loss(
    engine: Engine, sft_config: Callable[..., SFTConfig], conversations: Conversations
) -> None:
    """One row at a time, or all padded together."""
    sums = []
    for size in (1, 8):
        config = sft_config()
        training = config.training.model_copy(update={"micro_batch_size": size})
        objective = FineTuning(engine, config.model_copy(update={"training": training}), conversations)
        sums.append(engine.evaluate(objective.batch(0, engine).micro))
    assert sums[0] == pytest.approx(sums[1], rel=1e-6)


def test_losses_by_family_add_up(engine: Engine, objective: FineTuning) -> None:
    result = engine.train_step(objective.batch(0, engine), objective.loss, 1e-3)
    parts = [value for name, value in result.metrics.items() if name.startswith("loss/")]
    assert len(parts) == 3
    assert sum(parts) == pytest.approx(result.loss, rel=1e-5)
