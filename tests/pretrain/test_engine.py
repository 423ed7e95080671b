import math

import pytest
import torch

from pretrain.batch import MicroBatch, StepBatch
from stemma.core.errors import StemmaError
from tests.pretrain.helpers import (
    VOCAB,
    batch,
    build,
    parameter_hash,
    rows,
    train,
)


@pytest.fixture
def engine():
    engine = build()
    yield engine
    engine.close()


def test_training_learns_a_batch_by_heart(engine):
    def loss(logits, micro):
        return (engine.token_loss(logits, micro.labels) * micro.loss_mask).sum(), {}

    results = [engine.train_step(batch(0), loss, lr=1e-2) for _ in range(60)]
    assert results[0].loss > math.log(VOCAB) * 0.9
    assert results[-1].loss < 0.3
    assert not any(result.skipped for result in results)


def test_positions_outside_the_mask_teach_nothing(engine):
    tokens, labels, mask = rows(0, count=1)
    other = torch.where(mask > 0, labels, (labels + 1) % VOCAB)
    losses = []
    for version in (labels, other):
        micro = MicroBatch(tokens, version, mask, torch.zeros_like(tokens))
        losses.append(engine.evaluate([micro]))
    assert losses[0] == losses[1]


def test_metrics_are_sums_over_the_denominator(engine):
    def loss(logits, micro):
        each = engine.token_loss(logits, micro.labels) * micro.loss_mask
        return each.sum(), {"supervised": micro.loss_mask.sum()}

    result = engine.train_step(batch(0), loss, lr=0.0)
    assert result.metrics == {"supervised": pytest.approx(1.0)}


def test_evaluation_agrees_with_log_probabilities_and_changes_nothing(engine):
    tokens, _, _ = rows(3)
    before = parameter_hash(engine)
    labels = torch.cat([tokens[:, 1:], tokens[:, :1]], 1)
    mask = torch.ones_like(tokens, dtype=torch.float32)
    mask[:, -1] = 0
    loss = engine.evaluate([MicroBatch(tokens, labels, mask, torch.zeros_like(tokens))])
    logprobs = engine.token_logprobs_no_grad(tokens)
    assert loss == pytest.approx(-logprobs.double().sum().item(), rel=1e-6)
    assert torch.equal(logprobs[:, -1], torch.zeros(len(tokens)))
    assert parameter_hash(engine) == before


def test_documents_packed_into_one_row_are_as_if_alone(engine):
    tokens, labels, _ = rows(4, count=2, seq=12)
    mask = torch.ones_like(tokens, dtype=torch.float32)
    alone = engine.evaluate([MicroBatch(tokens, labels, mask, torch.zeros_like(tokens))])
    packed = MicroBatch(
        *(x.reshape(1, -1) for x in (tokens, labels, mask)), torch.zeros(1, 24, dtype=torch.long)
    )
    mixed = engine.evaluate([packed])
    packed.cu_seqlens = torch.tensor([0, 12, 24])
    assert engine.evaluate([packed]) == pytest.approx(alone, rel=1e-6)  # rotary position is relative
    assert mixed != pytest.approx(alone, rel=1e-6)


def test_norms_are_not_decayed_and_matrices_are(engine):
    before = {name: tensor.clone() for name, tensor in engine.hf_state_dict().items()}

    def flat(logits, micro):
        return logits.sum() * 0.0, {}

    engine.train_step(batch(0), flat, lr=0.5)
    after = engine.hf_state_dict()
    for name, tensor in before.items():
        kept = 1.0 if "norm" in name else 1 - 0.5 * 0.1
        torch.testing.assert_close(after[name], tensor * kept)


def test_gradients_are_clipped_to_the_configured_norm(engine):
    def steep(logits, micro):
        return 1e4 * (engine.token_loss(logits, micro.labels) * micro.loss_mask).sum(), {}

    result = engine.train_step(batch(0), steep, lr=0.0)
    squares = sum(p.main_grad.double().square().sum().item() for p in engine.module.parameters())
    assert result.grad_norm > 100
    assert math.sqrt(squares) == pytest.approx(1.0, rel=1e-4)


def test_a_batch_without_supervised_tokens_is_refused(engine):
    with pytest.raises(StemmaError, match="no supervised token"):
        engine.train_step(
            StepBatch(batch(0).micro, {}, "", 0.0), lambda logits, micro: (logits.sum(), {}), 1e-3
        )


@pytest.mark.parametrize("name", ["tokens", "labels"])
@pytest.mark.parametrize("id", [-1, VOCAB])
def test_ids_of_another_vocabulary_are_refused(engine, name, id):
    step = batch(0)
    getattr(step.micro[1], name)[0, 3] = id
    with pytest.raises(StemmaError, match=rf"token ids from .*{id}.* those below {VOCAB}"):
        engine.train_step(step, lambda logits, micro: (logits.sum(), {}), 1e-3)


def test_a_wrong_number_of_processes_is_refused(engine):
    with pytest.raises(StemmaError, match="1 processes, but needs 2"):
        build(data_parallel=2)


def test_the_same_seed_trains_the_same_weights(engine):
    losses = train(engine, 0, 4)
    digest = parameter_hash(engine)
    engine.close()
    again = build()
    assert train(again, 0, 4) == losses
    assert parameter_hash(again) == digest
