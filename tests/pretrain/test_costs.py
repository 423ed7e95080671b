"""The planner's arithmetic against counted parameters, counted operations and measured activations."""

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pretrain.batch import MicroBatch, StepBatch
from pretrain.config import ModelConfig
from pretrain.costs import (
    checkpoint_bytes,
    forward_flops,
    layer_activation_bytes,
    memory,
    rank_parameters,
    state_bytes_per_parameter,
    training_flops,
)
from pretrain.planner import single_rank
from pretrain.topology import Topology
from tests.pretrain.helpers import REFERENCE, build, train

SMALL = ModelConfig(
    vocab_size=512,
    hidden_size=256,
    num_layers=3,
    num_attention_heads=4,
    ffn_hidden_size=768,
    q_lora_rank=192,
    kv_lora_rank=64,
    qk_nope_head_dim=32,
    qk_rope_head_dim=16,
    v_head_dim=32,
)

NARROW = SMALL.model_copy(
    update={"hidden_size": 128, "ffn_hidden_size": 384, "q_lora_rank": 64, "num_layers": 2}
)


def oracle(model: ModelConfig) -> torch.nn.Module:
    """transformers' model of the same shape, with attention written out, so that every product is seen."""
    from transformers import YoutuConfig, YoutuForCausalLM

    config = YoutuConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_attention_heads,
        intermediate_size=model.ffn_hidden_size,
        q_lora_rank=model.q_lora_rank,
        kv_lora_rank=model.kv_lora_rank,
        qk_nope_head_dim=model.qk_nope_head_dim,
        qk_rope_head_dim=model.qk_rope_head_dim,
        v_head_dim=model.v_head_dim,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation="eager",
    )
    return YoutuForCausalLM(config)


@pytest.mark.parametrize(
    "model", [SMALL, SMALL.model_copy(update={"q_lora_rank": None, "num_layers": 1, "v_head_dim": 48})]
)
def test_flops_are_those_that_torch_counts(model: ModelConfig) -> None:
    batch, length = 2, 40
    module = oracle(model)
    tokens = torch.randint(0, model.vocab_size, (batch, length))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        module(tokens)
    with FlopCounterMode(display=False) as both:
        module(tokens).logits.sum().backward()
    assert forward.get_total_flops() == batch * length * forward_flops(model, length, causal=False)
    assert both.get_total_flops() == batch * length * training_flops(model, length, causal=False)


def test_causal_attention_costs_the_pairs_it_has() -> None:
    length = 7
    pairs = sum(position + 1 for position in range(length))
    per_pair = 2 * SMALL.num_layers * SMALL.num_attention_heads * (SMALL.qk_head_dim + SMALL.v_head_dim)
    without = forward_flops(SMALL, length, causal=False) * length - per_pair * length**2
    assert forward_flops(SMALL, length) * length == without + per_pair * pairs


@given(
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 4, 8, 32]),
)
def test_ranks_hold_the_whole_model_between_them(tensor: int, pipeline: int) -> None:
    topology = Topology(tensor, pipeline)
    table = REFERENCE.vocab_size * REFERENCE.hidden_size
    norms = 2 * REFERENCE.hidden_size + 1536 + 512
    middle = REFERENCE.num_layers // pipeline * ((REFERENCE.layer_parameters - norms) // tensor + norms)
    first, last = (rank_parameters(REFERENCE, topology, last=last) for last in (False, True))
    if pipeline == 1:
        held = tensor * last
    else:
        held = tensor * (first + last + (pipeline - 2) * middle) - table  # the last stage's copy
    copies = (tensor - 1) * (REFERENCE.num_layers * norms + REFERENCE.hidden_size)
    assert held - copies == REFERENCE.parameters


def test_untied_tables_are_two() -> None:
    untied = REFERENCE.model_copy(update={"tie_word_embeddings": False})
    assert rank_parameters(untied, Topology(), last=True) == untied.parameters
    assert rank_parameters(REFERENCE, Topology(), last=True) == REFERENCE.parameters == 1_961_560_064


def test_optimizer_state_is_sharded() -> None:
    assert state_bytes_per_parameter("bf16", 1) == (2, 4, 12)
    assert sum(state_bytes_per_parameter("bf16", 4)) == 6 + 12 / 4
    assert sum(state_bytes_per_parameter("fp32", 8)) == 8 + 8 / 8


def saved_bytes(model: ModelConfig, batch: int, length: int) -> int:
    """Bytes of distinct storages, weights aside, that autograd keeps in a forward pass of our model."""
    from pretrain.model import build_model, initialize, megatron_config

    with single_rank():
        module = build_model(model, megatron_config(model))
        initialize(module, model, seed=0)
        weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        kept: dict[int, int] = {}
        alive = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            alive.append(tensor)  # so that no address is used twice
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        tokens = torch.zeros(batch, length, dtype=torch.long)
        positions = torch.arange(length).expand(batch, length)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(tokens, positions, None)
    return sum(kept.values())


def test_activations_are_those_that_autograd_keeps() -> None:
    """A layer keeps what the formula says, plus what a CPU keeps for lack of fused norms and SwiGLU."""
    batch, length = 2, 64
    deeper = SMALL.model_copy(update={"num_layers": SMALL.num_layers + 1})
    measured = (saved_bytes(deeper, batch, length) - saved_bytes(SMALL, batch, length)) / (batch * length)
    norms = 2 * SMALL.hidden_size + SMALL.q_lora_rank + SMALL.kv_lora_rank  # type: ignore[operator]
    unfused = 4 * (norms + 2 * SMALL.ffn_hidden_size)
    assert measured == pytest.approx(layer_activation_bytes(SMALL, Topology(), "fp32") + unfused, rel=0.01)


def peak_bytes(model: ModelConfig, rows: int, length: int) -> int:
    """Most bytes that a training step held at once beyond what it found: counted by torch's allocator."""
    engine = build(model)
    tokens = torch.randint(0, model.vocab_size, (rows, length + 1))
    positions = torch.arange(length).expand(rows, length)
    micro = MicroBatch(
        tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.ones(rows, length), positions
    )
    batch = StepBatch([micro], {}, "", float(rows * length))

    def loss(output: torch.Tensor, part: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return engine.token_loss(output, part.labels).sum(), {}

    engine.train_step(batch, loss, lr=1e-3)  # the first one makes the moments
    with torch.profiler.profile(profile_memory=True) as recorded:
        engine.train_step(batch, loss, lr=1e-3)
    engine.close()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = list(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    return max(held)


@pytest.mark.parametrize(("layers", "rows", "length"), [(2, 2, 512), (4, 1, 1024)])
def test_the_peak_of_a_step_is_what_the_formula_says(layers: int, rows: int, length: int) -> None:
    """Activations and logits, plus what a CPU keeps for lack of fused norms and SwiGLU."""
    model = NARROW.model_copy(update={"num_layers": layers})
    planned = memory(model, Topology(), "fp32", length, rows, recompute=False)
    norms = 2 * model.hidden_size + (model.q_lora_rank or 0) + model.kv_lora_rank
    unfused = rows * length * layers * 4 * (norms + 2 * model.ffn_hidden_size)
    expected = planned.activations + planned.logits + unfused
    assert peak_bytes(model, rows, length) == pytest.approx(expected, rel=0.02)


def test_a_checkpoint_is_as_large_as_planned(tmp_path: Path) -> None:
    engine = build(NARROW)
    train(engine, 0, 1)
    engine.save(tmp_path / "step-00000001", {})
    engine.close()
    written = sum(path.stat().st_size for path in (tmp_path / "step-00000001").rglob("*") if path.is_file())
    assert written == pytest.approx(checkpoint_bytes(NARROW, "fp32"), rel=0.03)


@settings(max_examples=30)
@given(
    length=st.sampled_from([8_192, 32_768, 131_072]),
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 4]),
    context=st.sampled_from([1, 2, 8]),
)
def test_memory_falls_with_recomputation_and_with_every_kind_of_sharing(
    length: int, tensor: int, pipeline: int, context: int
) -> None:
    def total(topology: Topology, recompute: bool = False) -> float:
        return memory(REFERENCE, topology, "bf16", length, 1, recompute).total

    here = Topology(tensor, pipeline, context, data=4)
    assert total(here, recompute=True) < total(here)
    assert total(Topology(2 * tensor, pipeline, context, 4)) < total(here)
    assert total(Topology(tensor, pipeline, 2 * context, 4)) < total(here)
    assert total(Topology(tensor, pipeline, context, 8)) < total(here)
