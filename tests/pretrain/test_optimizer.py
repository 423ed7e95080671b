"""Muon is compared with torch.optim.Muon on the weights as transformers names them: one per linear layer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain import convert
from pretrain.batch import MicroBatch
from pretrain.config import OptimizerConfig
from pretrain.engine import Engine
from stemma.core.errors import StemmaError
from tests.pretrain.helpers import batch, build, parameter_hash, train

LR = 1e-2


def engine_with(**optimizer: Any) -> Engine:
    return build(training={"optimizer": OptimizerConfig(**optimizer)})


def flat(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """No gradient: what is left of a step is the decay."""
    return logits.sum() * 0.0, {}


def weights(engine: Engine) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine.hf_state_dict().items()}


def gradients(engine: Engine) -> dict[str, Tensor]:
    """The gradient that the last step applied, under the names of its weights."""
    found = {
        name: parameter.main_grad.clone()  # type: ignore[attr-defined]
        for name, parameter in engine.module.named_parameters()
    }
    return dict(convert.megatron_to_hf(found.items()))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_steps_are_those_of_torchs_own_optimizers(name: str) -> None:
    engine = engine_with(name=name)
    mine = weights(engine)
    matrices = [key for key, value in mine.items() if value.dim() == 2 and ".layers." in key]
    assert len(matrices) == 2 * 8
    hidden = matrices if name == "muon" else []
    norms = [key for key in mine if "norm" in key]
    tables = [key for key in mine if key not in (*hidden, *norms)]
    settings: dict[str, Any] = {"lr": LR, "betas": (0.9, 0.95), "eps": 1e-8}
    oracles: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([mine[key] for key in norms], weight_decay=0.0, **settings),
        torch.optim.AdamW([mine[key] for key in tables], weight_decay=0.1, **settings),
    ]
    if hidden:
        own = [mine[key] for key in hidden]
        oracles.append(torch.optim.Muon(own, lr=LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    for step in range(4):
        train(engine, step, step + 1)
        for key, gradient in gradients(engine).items():
            mine[key].grad = gradient
        for oracle in oracles:
            oracle.step()
        for key, tensor in engine.hf_state_dict().items():
            torch.testing.assert_close(tensor, mine[key], atol=2e-6, rtol=2e-6, msg=f"{key}, step {step}")
    engine.close()


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("tables", [True, False])
def test_norms_are_never_decayed_and_embeddings_by_choice(name: str, tables: bool) -> None:
    engine = engine_with(name=name, decay_embeddings=tables)
    before = weights(engine)
    engine.train_step(batch(0), flat, lr=0.5)
    for key, tensor in engine.hf_state_dict().items():
        decayed = "norm" not in key and (tables or ".layers." in key)
        torch.testing.assert_close(tensor, before[key] * (1 - 0.5 * 0.1 if decayed else 1.0))
    engine.close()


def test_a_step_of_muon_is_as_large_as_one_of_adamw() -> None:
    engine = engine_with(name="muon", weight_decay=0.0)
    before = weights(engine)
    train(engine, 0, 1)
    for key, tensor in engine.hf_state_dict().items():
        if ".layers." in key and tensor.dim() == 2:
            size = (tensor - before[key]).square().mean().sqrt().item() / LR
            assert 0.12 < size < 0.26, key  # 0.2, were all singular values exactly 1
    engine.close()


def test_gradients_are_clipped_for_all_parameters_together() -> None:
    engine = engine_with(name="muon", clip_grad=0.25)

    def steep(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return 1e4 * (engine.token_loss(logits, micro.labels) * micro.loss_mask).sum(), {}

    result = engine.train_step(batch(0), steep, lr=0.0)
    squares = sum(tensor.double().square().sum().item() for tensor in gradients(engine).values())
    assert result.grad_norm > 100
    assert math.sqrt(squares) == pytest.approx(0.25, rel=1e-4)
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_muon_goes_on_bit_for_bit(precision: str, tmp_path: Path) -> None:
    training = {"optimizer": OptimizerConfig(name="muon"), "precision": precision}
    engine = build(training=training)
    train(engine, 0, 3)
    engine.save(tmp_path / "checkpoint", {})
    losses, digest = train(engine, 3, 6), parameter_hash(engine)
    engine.close()
    again = build(training=training)
    again.load(tmp_path / "checkpoint")
    assert train(again, 3, 6) == losses
    assert parameter_hash(again) == digest
    again.close()


def test_a_carried_optimizer_goes_by_the_settings_of_its_new_stage(tmp_path: Path) -> None:
    first = engine_with(adam_beta2=0.5, adam_eps=1e-3, weight_decay=0.3)
    train(first, 0, 1)
    first.save(tmp_path / "checkpoint", {})
    first.close()
    second = engine_with(adam_beta1=0.8)
    second.load(tmp_path / "checkpoint")
    train(second, 1, 2)
    for group in second.optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-8)
        assert group["weight_decay"] == 0.1 * group["wd_mult"]
    second.close()


def test_muon_is_not_distributed() -> None:
    with pytest.raises(StemmaError, match="needs whole matrices"):
        build(sharded_optimizer=True, training={"optimizer": OptimizerConfig(name="muon")})
