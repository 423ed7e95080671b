"""Every precision trains, resumes exactly, and says clearly where it cannot run."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from pretrain.config import FP8Config, LossScaleConfig
from pretrain.model import megatron_config
from pretrain.precision import Machine, check_fp8, loss_scales
from pretrain.simulated import GRADIENT, INPUT, WEIGHT, Operands, SimulatedLinear, _Product
from pretrain.topology import Topology
from stemma.core.errors import StemmaError
from tests.kernels.test_fp8 import E4M3, E5M2, definition, matrix
from tests.pretrain.helpers import (
    REFERENCE,
    TINY,
    amax_histories,
    batch,
    build,
    parameter_hash,
    run_ranks,
    train,
)

HOPPER = Machine(capability=(9, 0), transformer_engine=(2, 8))
RECIPES = ["tensorwise", "delayed", "blockwise", "mxfp8"]
FP8 = {name: {"precision": "fp8", "fp8": {"recipe": name, "simulate": True}} for name in RECIPES}
HALF = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16", "loss_scale": {"initial": 2.0**30, "window": 3}},
} | FP8


@pytest.fixture
def engines():
    """Builds engines one after another; each takes the place of the one before."""
    built = []

    def make(**training):
        while built:
            built.pop().close()
        built.append(build(training=training))
        return built[-1]

    yield make
    while built:
        built.pop().close()


def weights(engine):
    return {name: tensor.clone() for name, tensor in engine.module.named_parameters()}


# --- what runs where ---


def test_megatron_is_told_what_the_profile_says(monkeypatch):
    monkeypatch.setattr(Machine, "here", lambda: Machine((10, 0), (2, 8)))
    fp8 = FP8Config(recipe="blockwise", num_layers_at_start_in_bf16=1, num_layers_at_end_in_bf16=2)
    config = megatron_config(REFERENCE, "fp8", fp8=fp8)
    assert (config.fp8, config.fp8_recipe, config.bf16) == ("e4m3", "blockwise", True)
    assert config.first_last_layers_bf16
    assert (config.num_layers_at_start_in_bf16, config.num_layers_at_end_in_bf16) == (1, 2)
    delayed = FP8Config(recipe="delayed", amax_history_len=16, margin=1)
    config = megatron_config(REFERENCE, "fp8", fp8=delayed)
    assert (config.fp8, config.fp8_recipe, config.fp8_amax_compute_algo) == ("hybrid", "delayed", "max")
    assert (config.fp8_amax_history_len, config.fp8_margin) == (16, 1)
    assert not config.first_last_layers_bf16
    simulated = megatron_config(TINY, "fp8", fp8=FP8Config(simulate=True))
    assert (simulated.fp8, simulated.params_dtype) == (None, torch.bfloat16)
    assert megatron_config(TINY, "fp16").params_dtype == torch.float16


@pytest.mark.parametrize(
    ("recipe", "machine", "reasons"),
    [
        ("tensorwise", HOPPER, []),
        ("blockwise", HOPPER, []),
        ("mxfp8", Machine((10, 0), (2, 1)), []),
        ("mxfp8", HOPPER, ["compute capability 10.0 .Blackwell., and this one has 9.0"]),
        ("delayed", Machine((8, 0), (2, 8)), ["capability 8.9 .* has 8.0"]),
        ("blockwise", Machine((9, 0), (2, 2)), ["Transformer Engine 2.3 or newer .* and 2.2 is installed"]),
        ("tensorwise", Machine((9, 0), None), ["Transformer Engine 2.2 .* none is installed"]),
        ("tensorwise", Machine(None, None), ["there is no CUDA device", "none is installed"]),
    ],
)
def test_fp8_is_refused_where_it_cannot_run_with_every_reason(recipe, machine, reasons):
    if not reasons:
        check_fp8(REFERENCE, FP8Config(recipe=recipe), Topology(), machine)
        return
    with pytest.raises(StemmaError, match="(?s)" + ".*".join([*reasons, "fp8.simulate"])):
        check_fp8(REFERENCE, FP8Config(recipe=recipe), Topology(), machine)


def test_fp8_is_refused_for_shapes_that_tensor_cores_do_not_take():
    with pytest.raises(StemmaError, match=r"(?s)kv_lora_rank \+ qk_rope_head_dim is 24.*q_lora_rank is 24"):
        check_fp8(TINY, FP8Config(), Topology(), HOPPER)
    with pytest.raises(StemmaError, match=r"\(ffn_hidden_size\) / tensor_parallel is 8, not a multiple"):
        check_fp8(
            REFERENCE.model_copy(update={"ffn_hidden_size": 32}), FP8Config(), Topology(tensor=4), HOPPER
        )
    with pytest.raises(StemmaError, match="more layers stay in bf16 at one end than a pipeline stage has"):
        check_fp8(REFERENCE, FP8Config(num_layers_at_end_in_bf16=9), Topology(pipeline=4), HOPPER)
    with pytest.raises(StemmaError, match="2 layers stay in bf16 and the model has 2: none is left"):
        check_fp8(TINY, FP8Config(num_layers_at_end_in_bf16=2, simulate=True), Topology(), HOPPER)


def test_contradictions_are_refused_when_the_profile_is_read():
    with pytest.raises(ValidationError, match="none can stay in bf16"):
        FP8Config(recipe="delayed", num_layers_at_start_in_bf16=1)
    with pytest.raises(ValidationError, match="below minimum"):
        LossScaleConfig(initial=1.0, minimum=2.0)


# --- the products ---


@pytest.mark.parametrize("format", ["hybrid", "e4m3"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_all_three_products_see_quantised_operands(recipe, format):
    """Against float64 products of operands that the definition quantised."""
    x, weight, gradient = matrix(150, 140, 1), matrix(70, 140, 2), matrix(150, 70, 3)
    operands = Operands(FP8Config(recipe=recipe, format=format, amax_history_len=2))
    gradient_format = E5M2 if format == "hybrid" else E4M3
    if recipe == "delayed":  # of largest values that are already known it is tensorwise scaling
        for role, operand in ((INPUT, x), (WEIGHT, weight), (GRADIENT, gradient)):
            operands.record(role, operand)
        operands.history.roll()

    def q(tensor, dtype, along, square=False):
        return definition(
            tensor.numpy(), "tensorwise" if recipe == "delayed" else recipe, dtype, along, square
        )

    x_leaf, weight_leaf = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = _Product.apply(x_leaf.view(15, 10, 140), weight_leaf, operands)
    out.backward(gradient.view(15, 10, 70))
    blocks = recipe == "blockwise"
    pairs = [
        (out.reshape(150, 70), q(x, E4M3, 1) @ q(weight, E4M3, 1, blocks).T),
        (x_leaf.grad, q(gradient, gradient_format, 1) @ q(weight, E4M3, 0, blocks)),
        (weight_leaf.grad, q(gradient, gradient_format, 0).T @ q(x, E4M3, 0)),
    ]
    exact = [x.double() @ weight.double().T, gradient.double() @ weight.double()]
    exact.append(gradient.double().T @ x.double())
    for (found, expected), plain in zip(pairs, exact):
        found, expected = found.detach().double(), torch.from_numpy(expected)
        size = plain.square().mean().sqrt()
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        assert 3e-3 * size < (found - plain).square().mean().sqrt() < 8e-2 * size  # and quantised they are


def test_first_and_last_layers_stay_in_bf16_where_asked(engines):
    fp8 = {"recipe": "mxfp8", "simulate": True, "num_layers_at_start_in_bf16": 1}
    engine = engines(precision="fp8", fp8=fp8)
    quantised = [name for name, layer in engine.module.named_modules() if isinstance(layer, SimulatedLinear)]
    kinds = ["q_down_proj", "q_up_proj", "kv_down_proj", "kv_up_proj", "proj"]
    expected = [f"decoder.layers.1.self_attention.linear_{kind}" for kind in kinds]
    expected += [f"decoder.layers.1.mlp.linear_{kind}" for kind in ("fc1", "fc2")]
    assert sorted(quantised) == sorted(expected)


# --- training ---


@pytest.fixture(scope="module")
def fp32_losses():
    engine = build()
    losses = train(engine, 0, 8)
    engine.close()
    return losses


@pytest.mark.parametrize("name", HALF)
def test_a_precision_trains_like_fp32_and_resumes_bit_for_bit(engines, fp32_losses, tmp_path, name):
    settings = HALF[name]
    engine = engines(**settings)
    losses = train(engine, 0, 4)
    extra_state = state_of_precision(engine)
    engine.save(tmp_path / "step-4", {})
    losses += train(engine, 4, 8)
    digest, at_end = parameter_hash(engine), state_of_precision(engine)

    gaps = [abs(mine - theirs) for mine, theirs in zip(losses, fp32_losses)]
    if name != "fp16":  # its first steps overflow and are skipped
        assert 0 < max(gaps) < 0.15
    assert {p.dtype for p in engine.module.parameters()} == {
        torch.float16 if name == "fp16" else torch.bfloat16
    }

    resumed = engines(**settings)
    resumed.load(tmp_path / "step-4")
    assert state_of_precision(resumed) == extra_state
    assert train(resumed, 4, 8) == losses[4:]
    assert (parameter_hash(resumed), state_of_precision(resumed)) == (digest, at_end)
    if name in ("fp16", "delayed"):
        assert at_end != extra_state  # there was something to keep


def state_of_precision(engine):
    """Loss scale and histories of largest values."""
    return str(loss_scales(engine.optimizer)), [state.tolist() for state in amax_histories(engine)]


def test_an_fp16_overflow_skips_the_step_and_lowers_the_scale(engines):
    engine = engines(precision="fp16", loss_scale={"initial": 2.0**40, "window": 2, "hysteresis": 1})
    before = weights(engine)

    def loss(logits, micro):
        return (engine.token_loss(logits, micro.labels) * micro.loss_mask).sum(), {}

    overflowed = engine.train_step(batch(0), loss, lr=1e-2)
    assert overflowed.skipped
    assert overflowed.loss == pytest.approx(5.84, abs=0.1)
    assert overflowed.grad_norm == float("inf")
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(engine).items())
    assert engine.optimizer.get_loss_scale().item() == 2.0**39
    while engine.train_step(batch(0), loss, lr=1e-2).skipped:
        pass
    found = engine.optimizer.get_loss_scale().item()
    assert 2.0**8 < found < 2.0**39
    applied = engine.train_step(batch(0), loss, lr=1e-2)  # the second in a row without an overflow
    assert not applied.skipped
    assert applied.grad_norm < 100  # of the unscaled gradient
    assert engine.optimizer.get_loss_scale().item() == 2 * found


def test_histories_begin_and_end_with_fp8(engines, tmp_path):
    """A stage in fp8 starts from weights trained without, and the other way round."""
    plain = engines(precision="bf16")
    train(plain, 0, 2)
    plain.save(tmp_path / "bf16", {})
    fp8 = engines(**FP8["delayed"])
    fp8.load(tmp_path / "bf16")
    assert not any(state[:-1].any() for state in amax_histories(fp8))
    train(fp8, 2, 3)
    fp8.save(tmp_path / "fp8", {})
    losses = train(fp8, 3, 4)
    again = engines(precision="bf16")
    again.load(tmp_path / "fp8")
    assert train(again, 3, 4) == pytest.approx(losses, abs=0.05)


def test_masters_are_not_taken_for_weights_nor_the_other_way_round(engines, tmp_path):
    full = engines()
    train(full, 0, 2)
    full.save(tmp_path / "fp32", {})
    bf16 = engines(precision="bf16")
    with pytest.raises(StemmaError, match=r"weights are fp32.*beside 16-bit weights.*carry_optimizer: false"):
        bf16.load(tmp_path / "fp32")
    bf16.load(tmp_path / "fp32", weights_only=True)
    bf16.save(tmp_path / "bf16", {})  # before its first step: there are no moments, and no masters, to save
    losses = train(bf16, 2, 4)
    again = engines(precision="bf16")
    again.load(tmp_path / "bf16")
    assert train(again, 2, 4) == losses


def test_delayed_scales_follow_steps_and_not_micro_batches_or_evaluations(engines):
    engine = engines(**FP8["delayed"])
    train(engine, 0, 1)
    once = state_of_precision(engine)
    one_by_one = replace(batch(1), micro=[replace(micro, cu_seqlens=None) for micro in batch(1).micro])
    engine.evaluate(one_by_one.micro)
    assert state_of_precision(engine) == once
    joined = {
        name: torch.cat([getattr(micro, name) for micro in one_by_one.micro])
        for name in ("tokens", "labels", "loss_mask", "position_ids")
    }
    together = replace(one_by_one, micro=[replace(one_by_one.micro[0], **joined)])

    def loss(logits, micro):
        return (engine.token_loss(logits, micro.labels) * micro.loss_mask).sum(), {}

    results = []
    for version in (one_by_one, together):
        engine = engines(**FP8["delayed"])
        train(engine, 0, 1)
        results.append((engine.train_step(version, loss, 1e-2).loss, state_of_precision(engine)[1]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-3)
    torch.testing.assert_close(torch.tensor(results[0][1]), torch.tensor(results[1][1]), rtol=0.02, atol=0)


@pytest.mark.slow
def test_ranks_share_what_they_remember(engines, tmp_path):
    """Two ranks scale as one process does, whether they share layers, positions or batches."""
    engine = engines(**FP8["delayed"])
    losses = train(engine, 0, 4)
    alone = torch.stack(amax_histories(engine))
    splits = [{"tensor_parallel": 2}, {"tensor_parallel": 2, "sequence_parallel": True}]
    splits += [{"data_parallel": 2}, {"context_parallel": 2}]
    calls = [("histories", split, FP8["delayed"]) for split in splits]
    for found in run_ranks(2, tmp_path, *calls):
        assert found["losses"] == pytest.approx(losses, abs=0.05)
        states = torch.tensor(found["states"])
        assert torch.equal(states[:, -5, WEIGHT], alone[:, -5, WEIGHT])  # of whole weights, in the first step
        assert torch.equal(states[0, -5, INPUT], alone[0, -5, INPUT])  # of all micro batches
        torch.testing.assert_close(states[..., :GRADIENT], alone[..., :GRADIENT], rtol=0.25, atol=0)
        torch.testing.assert_close(states[..., GRADIENT], alone[..., GRADIENT], rtol=0.6, atol=0)
