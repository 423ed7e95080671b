import pytest
import torch
from transformers import AutoModelForCausalLM, YoutuForCausalLM

from pretrain import convert
from pretrain.config import ModelConfig
from stemma.core.errors import StemmaError
from tests.pretrain.helpers import TINY, build, parameter_hash, rows, train


@pytest.fixture(params=[{}, {"q_lora_rank": None}, {"tie_word_embeddings": False}], ids=str)
def engine(request):
    engine = build(ModelConfig(**(TINY.model_dump() | request.param)))
    train(engine, 0, 2)  # norms are no longer ones
    yield engine
    engine.close()


def test_transformers_computes_the_same_logits(engine, tmp_path):
    convert.write_hf(tmp_path, engine.hf_state_dict(), engine.model)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(reference, YoutuForCausalLM)
    tokens, _, _ = rows(5)
    with torch.no_grad():
        mine = engine.module(tokens, torch.zeros_like(tokens), None)
        theirs = reference(tokens).logits
    assert (mine - theirs).abs().max() <= 1e-5


def test_transformers_follows_a_changed_rotary_base(engine, tmp_path):
    engine.set_rope_theta(100.0)
    convert.write_hf(tmp_path, engine.hf_state_dict(), engine.model, rope_theta=100.0)
    tokens, _, _ = rows(5)
    with torch.no_grad():
        mine = engine.module(tokens, torch.zeros_like(tokens), None)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits
        other = YoutuForCausalLM(convert.hf_config(engine.model))
        engine.sync_hf(other)
    assert (mine - theirs).abs().max() <= 1e-5
    assert (mine - other(tokens).logits).abs().max() > 1e-4


def test_weights_come_back_bit_for_bit(engine):
    state = {name: tensor.clone() for name, tensor in engine.hf_state_dict().items()}
    there = convert.hf_to_megatron(state, engine.model)
    back = dict(convert.megatron_to_hf(there.items()))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    digest = parameter_hash(engine)
    train(engine, 2, 3)
    engine.load_hf_state_dict(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in engine.hf_state_dict().items())
    assert parameter_hash(engine) != digest  # the moments went on


def test_a_live_model_takes_over_the_weights(engine):
    live = YoutuForCausalLM(convert.hf_config(engine.model))
    engine.sync_hf(live)
    tokens, _, _ = rows(6)
    before = engine.token_logprobs_no_grad(tokens)[:, :-1]
    with torch.no_grad():
        after = live(tokens).logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_wrong_weights_are_refused_with_their_names(engine):
    state = engine.hf_state_dict()
    del state["model.norm.weight"]
    state["model.extra"] = torch.zeros(1)
    with pytest.raises(StemmaError, match=r"missing \['model.norm.weight'\], unknown \['model.extra'\]"):
        convert.hf_to_megatron(state, engine.model)


def test_a_redundant_copy_of_tied_embeddings_is_ignored(engine):
    if not engine.model.tie_word_embeddings:
        pytest.skip("this model's output layer is its own")
    state = engine.hf_state_dict()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    assert "output_layer.weight" not in convert.hf_to_megatron(state, engine.model)


def test_a_padding_id_is_refused_because_loading_would_zero_its_row():
    with pytest.raises(ValueError, match="pad_token_id"):
        convert.hf_config_dict(TINY, bos_token_id=1, eos_token_id=2, pad_token_id=2)
