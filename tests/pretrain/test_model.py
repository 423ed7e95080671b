import pytest
import torch

from pretrain.config import ModelConfig
from pretrain.model import build_model, megatron_config
from pretrain.sharding import join_shards, tensor_shard
from pretrain.topology import Topology, TopologyError
from tests.pretrain.helpers import REFERENCE, TINY, build


@pytest.fixture
def engine():
    engine = build()
    yield engine
    engine.close()


def test_the_reference_model_has_its_published_number_of_parameters(engine):
    with torch.device("meta"):
        module = build_model(REFERENCE, megatron_config(REFERENCE))
    assert (
        sum(parameter.numel() for parameter in module.parameters()) == REFERENCE.parameters == 1_961_560_064
    )


@pytest.mark.parametrize("change", [{}, {"q_lora_rank": None}, {"tie_word_embeddings": False}])
def test_the_config_counts_parameters_as_the_model_has_them(engine, change):
    shape = ModelConfig(**(TINY.model_dump() | change))
    with torch.device("meta"):
        module = build_model(shape, megatron_config(shape))
    assert sum(parameter.numel() for parameter in module.parameters()) == shape.parameters


def test_initial_weights_have_the_deviations_of_the_config(engine):
    wide = ModelConfig(**(TINY.model_dump() | {"hidden_size": 256, "vocab_size": 2048}))
    engine.close()
    weights = build(wide).hf_state_dict()
    assert wide.linear_std == pytest.approx((2 / (5 * 256)) ** 0.5)
    assert weights["model.embed_tokens.weight"].std().item() == pytest.approx(2 * wide.linear_std, rel=0.01)
    assert weights["model.layers.1.mlp.down_proj.weight"].std().item() == pytest.approx(
        wide.linear_std, rel=0.03
    )
    assert torch.equal(weights["model.norm.weight"], torch.ones(256))


def test_the_reference_shape_gets_the_deviations_that_its_vendor_declares():
    assert REFERENCE.linear_std == pytest.approx(0.013975424859, rel=1e-10)
    assert REFERENCE.embedding_std == pytest.approx(0.027950849719, rel=1e-10)


def test_every_seed_and_every_tensor_gets_its_own_weights(engine):
    weights = engine.hf_state_dict()
    first, second = (weights[f"model.layers.{layer}.self_attn.o_proj.weight"] for layer in (0, 1))
    assert not torch.equal(first, second)


def test_the_rotary_base_changes_what_later_positions_see(engine):
    tokens = torch.arange(20)[None] % 96
    before = engine.token_logprobs_no_grad(tokens)
    engine.set_rope_theta(500.0)
    after = engine.token_logprobs_no_grad(tokens)
    engine.set_rope_theta(TINY.rope_theta)
    assert not torch.equal(before, after)
    assert torch.equal(before[:, 0], after[:, 0])  # the first position sees itself only
    assert torch.equal(before, engine.token_logprobs_no_grad(tokens))


@pytest.mark.parametrize(
    "name", ["decoder.layers.0.mlp.linear_fc1.weight", "a.linear_proj.weight", "x_norm.weight"]
)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_shards_join_to_what_was_split(name, size):
    whole = torch.arange(16 * 8).reshape(16, 8)
    assert torch.equal(
        join_shards(name, [tensor_shard(name, whole, rank, size) for rank in range(size)]), whole
    )


def test_a_swiglu_shard_holds_a_part_of_the_gate_and_of_the_up_projection():
    whole = torch.arange(8)[:, None]
    assert tensor_shard("linear_fc1.weight", whole, 1, 2).flatten().tolist() == [2, 3, 6, 7]


def test_ranks_that_do_not_divide_the_model_are_refused():
    with pytest.raises(TopologyError, match=r"(?s)num_attention_heads = 2 .*num_layers = 2 "):
        megatron_config(TINY, topology=Topology(tensor=5, pipeline=3))
