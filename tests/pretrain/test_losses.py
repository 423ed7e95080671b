"""The oracle is transformers' model in float64 under the losses as they are defined, over a whole step."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import YoutuForCausalLM

from pretrain import convert
from pretrain.batch import MicroBatch, StepBatch
from pretrain.config import LossConfig, OptimizerConfig
from pretrain.engine import Engine, StepResult
from pretrain.losses import by_source, next_token_loss
from tests.pretrain.helpers import build, parameter_hash, rows

PLAIN = LossConfig()
MILE = LossConfig(name="mile", gamma=1.5, sigma=0.7)
Z_LOSS = LossConfig(z_loss=1e-2)
BOTH = MILE.model_copy(update={"z_loss": 1e-2})


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Weights ten times as large as usual: entropies and normalizers then differ from token to token."""
    engine = build(training={"optimizer": OptimizerConfig(clip_grad=0.0)})
    state = {
        name: tensor * (1.0 if "norm" in name else 10.0) for name, tensor in engine.hf_state_dict().items()
    }
    engine.load_hf_state_dict(state)
    yield engine
    engine.close()


def step_batch(step: int = 0, sizes: tuple[int, ...] = (2, 2)) -> StepBatch:
    """A step of four rows in micro batches of these sizes."""
    parts = zip(*(tensor.split(sizes) for tensor in rows(step)))
    micro = [
        MicroBatch(*part, torch.zeros_like(part[0]), ["a", "b", "a", "b"][: len(part[0])]) for part in parts
    ]
    return StepBatch(micro, {}, "", float(rows(step)[2].sum()))


def one_step(engine: Engine, config: LossConfig, batch: StepBatch, lr: float = 0.0) -> StepResult:
    def loss(output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        total, cross_entropy, sums = next_token_loss(engine, output, micro, config)
        return total, sums | by_source(cross_entropy, micro, ["a", "b"])

    return engine.train_step(batch, loss, lr)


def gradients(engine: Engine) -> dict[str, Tensor]:
    """Of the last step, under transformers' names."""
    named = engine.module.named_parameters()
    found = ((name, parameter.main_grad.clone()) for name, parameter in named)  # type: ignore[attr-defined]
    return dict(convert.megatron_to_hf(found))


def oracle(engine: Engine, config: LossConfig) -> tuple[float, dict[str, float], dict[str, Tensor]]:
    """Loss, figures and gradients of the step from their definitions, in float64."""
    model = YoutuForCausalLM(convert.hf_config(engine.model))
    engine.sync_hf(model)
    model = model.double()
    tokens, labels, mask = rows(0)
    logs = model(tokens).logits.double()
    p = logs.softmax(-1)
    loss = -logs.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    entropy = -(p * p.log()).sum(-1).detach()
    weights = ((config.sigma + entropy) ** config.gamma if config.name == "mile" else 1.0) * mask.double()
    penalty = config.z_loss * logs.logsumexp(-1).square()
    total = (weights * (loss + penalty)).sum() / weights.sum()
    total.backward()
    count = mask.sum().item()
    means = {
        "cross_entropy": (loss * mask).sum().item() / count,
        "z_loss": (penalty * mask).sum().item() / count,
    }
    return total.item(), means, {name: tensor.grad for name, tensor in model.named_parameters()}  # type: ignore


@pytest.mark.parametrize("config", [PLAIN, MILE, Z_LOSS, BOTH], ids=["plain", "mile", "z_loss", "both"])
def test_loss_figures_and_gradients_are_those_of_the_definition(engine: Engine, config: LossConfig) -> None:
    total, means, expected = oracle(engine, config)
    result = one_step(engine, config, step_batch())
    assert result.loss == pytest.approx(total, rel=2e-6)
    reported = {name: value for name, value in result.metrics.items() if not name.startswith("loss/")}
    wanted = {} if config == PLAIN else means if config.z_loss else {"cross_entropy": means["cross_entropy"]}
    assert reported == pytest.approx(wanted, rel=1e-5)
    by_domain = result.metrics["loss/a"] + result.metrics["loss/b"]
    assert by_domain == pytest.approx(means["cross_entropy"], rel=1e-5)  # sources are always compared plainly
    found = gradients(engine)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(
            gradient.double(), expected[name], atol=2e-5 * largest, rtol=1e-3, msg=name
        )


def test_the_losses_differ_from_each_other(engine: Engine) -> None:
    losses = [one_step(engine, config, step_batch()).loss for config in (PLAIN, MILE, Z_LOSS, BOTH)]
    assert min(abs(a - b) for at, a in enumerate(losses) for b in losses[:at]) > 1e-3


def test_a_power_of_zero_is_cross_entropy_bit_for_bit() -> None:
    hashes = []
    for config in (PLAIN, LossConfig(name="mile", gamma=0.0)):
        engine = build()
        results = [one_step(engine, config, step_batch(step), lr=1e-2) for step in range(3)]
        hashes.append((parameter_hash(engine), [(result.loss, result.grad_norm) for result in results]))
        engine.close()
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("sizes", [(4,), (1, 1, 1, 1), (1, 3), (3, 1)])
def test_how_a_step_is_cut_into_micro_batches_does_not_matter(engine: Engine, sizes: tuple[int, ...]) -> None:
    whole, cut = (one_step(engine, BOTH, step_batch(0, each)) for each in ((2, 2), sizes))
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
    assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)


def test_equally_unsure_everywhere_is_cross_entropy() -> None:
    engine = build()
    engine.load_hf_state_dict({name: 0.0 * tensor for name, tensor in engine.hf_state_dict().items()})
    plain, mile = (one_step(engine, config, step_batch()) for config in (PLAIN, MILE))
    assert mile.loss == pytest.approx(plain.loss, rel=1e-6)
    engine.close()


def test_validation_and_log_probabilities_stay_plain(engine: Engine) -> None:
    micro, tokens, state = step_batch().micro, rows(0)[0], engine.hf_state_dict()
    other = build(training={"loss": BOTH})
    other.load_hf_state_dict(state)
    assert other.evaluate(micro) == engine.evaluate(micro)
    assert torch.equal(*(each.token_logprobs_no_grad(tokens) for each in (engine, other)))
