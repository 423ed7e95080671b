import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, YoutuForCausalLM

from pretrain import convert
from pretrain.config import ModelConfig
from pretrain.convert.source import convert_folder, hf_tensors, open_weights
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, write_json
from tests.pretrain.helpers import TINY, build, parameter_hash, rows, run_ranks, train

VARIANTS: list[dict[str, Any]] = [{}, {"q_lora_rank": None}, {"tie_word_embeddings": False}]


def variant(changes: dict[str, Any]) -> ModelConfig:
    return ModelConfig.model_validate(TINY.model_dump() | changes)


@pytest.fixture(params=VARIANTS, ids=str)
def engine(request):
    engine = build(variant(request.param))
    train(engine, 0, 2)  # norms are no longer ones
    yield engine
    engine.close()


def weights_of(model: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in convert.hf_shapes(model).items()}


def same(one: Any, other: Any) -> bool:
    one, other = dict(one), dict(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_transformers_computes_the_same_logits(engine, tmp_path):
    engine.write_hf(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(reference, YoutuForCausalLM)
    tokens, _, _ = rows(5)
    with torch.no_grad():
        mine = engine.module(tokens, torch.zeros_like(tokens), None)
        theirs = reference(tokens).logits
    assert (mine - theirs).abs().max() <= 1e-5


def test_transformers_follows_a_changed_rotary_base(engine, tmp_path):
    engine.set_rope_theta(100.0)
    engine.write_hf(tmp_path / "hf")
    engine.save(tmp_path / "checkpoint", {})
    assert open_weights(tmp_path / "checkpoint").rope_theta == 100.0
    tokens, _, _ = rows(5)
    with torch.no_grad():
        mine = engine.module(tokens, torch.zeros_like(tokens), None)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(tokens).logits
        other = YoutuForCausalLM(convert.hf_config(engine.model))
        engine.sync_hf(other)
    assert (mine - theirs).abs().max() <= 1e-5
    assert (mine - other(tokens).logits).abs().max() > 1e-4


def test_weights_come_back_bit_for_bit(engine, tmp_path):
    """Out of the model, into it from a folder in shards, and out of its checkpoint without a model."""
    state = {name: tensor.clone() for name, tensor in engine.hf_state_dict().items()}
    digest = parameter_hash(engine)
    engine.write_hf(tmp_path / "hf", shard_bytes=9_000)
    engine.save(tmp_path / "checkpoint", {})
    stored = convert.MegatronFolder(tmp_path / "checkpoint")
    assert same(convert.megatron_to_hf(stored.items()), state)
    train(engine, 2, 3)
    engine.load_hf_state_dict(convert.HFFolder(tmp_path / "hf"))
    assert same(engine.hf_state_dict(), state)
    assert parameter_hash(engine) != digest  # the moments went on


def test_a_live_model_takes_over_the_weights(engine):
    live = YoutuForCausalLM(convert.hf_config(engine.model))
    engine.sync_hf(live)
    tokens, _, _ = rows(6)
    before = engine.token_logprobs_no_grad(tokens)[:, :-1]
    with torch.no_grad():
        after = live(tokens).logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_four_ranks_write_the_folder_and_the_checkpoint_of_the_whole(tmp_path):
    """TP x PP: the parts of all ranks are joined tensor by tensor, in both ways out."""
    calls = []
    for number, changes in enumerate(VARIANTS):
        ranks = {"tensor_parallel": 2, "pipeline_parallel": 2}
        calls.append(("export", ranks, variant(changes).model_dump(), str(tmp_path / str(number))))
    run_ranks(4, tmp_path, *calls)
    for number, changes in enumerate(VARIANTS):
        folder = tmp_path / str(number)
        written = convert.HFFolder(folder / "hf")
        assert written.model.parameters == variant(changes).parameters
        assert same(written.items(), hf_tensors(convert.MegatronFolder(folder / "checkpoint")))


shapes = st.builds(
    ModelConfig,
    vocab_size=st.integers(1, 40),
    hidden_size=st.integers(1, 20),
    num_layers=st.integers(1, 3),
    num_attention_heads=st.integers(1, 3),
    ffn_hidden_size=st.integers(1, 30),
    q_lora_rank=st.none() | st.integers(1, 9),
    kv_lora_rank=st.integers(1, 9),
    qk_nope_head_dim=st.integers(1, 9),
    qk_rope_head_dim=st.integers(1, 4).map(lambda half: 2 * half),
    v_head_dim=st.integers(1, 9),
    tie_word_embeddings=st.booleans(),
    rope_theta=st.floats(1.0, 1e7),
)


@settings(max_examples=15, deadline=None)
@given(model=shapes)
def test_any_dense_mla_shape_has_transformers_tensors_and_comes_back(model):
    with torch.device("meta"):
        reference = YoutuForCausalLM(convert.hf_config(model))
    expected = {name: tuple(parameter.shape) for name, parameter in reference.named_parameters()}
    assert convert.hf_shapes(model) == expected
    weights = weights_of(model)
    there = convert.hf_to_megatron(weights, model)
    assert sum(there[name].numel() for name in there) == model.parameters
    assert same(convert.megatron_to_hf(there.items()), weights)


@settings(max_examples=15, deadline=None)
@given(model=shapes)
def test_a_config_is_read_as_it_was_written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    write_json(folder / "config.json", convert.hf_config_dict(model))
    assert convert.model_config(folder) == model.model_copy(
        update={"initializer_range": None, "embedding_initializer_range": None}
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_is_what_safetensors_writes(dtype, tmp_path):
    weights = weights_of(TINY)
    convert.write_hf(tmp_path, reversed(list(weights.items())), TINY, dtype=dtype)
    expected = save({name: tensor.to(dtype) for name, tensor in weights.items()}, {"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == expected


def test_shards_are_small_and_transformers_reads_them(tmp_path):
    weights = weights_of(TINY)
    convert.write_hf(tmp_path, weights, TINY, shard_bytes=9_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 10_000 or len(_names(path)) == 1 for path in files)
    assert same(convert.HFFolder(tmp_path).items(), weights)
    read = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same(read.named_parameters(), weights)
    convert.write_hf(tmp_path, weights, TINY)  # nothing of the shards may be left beside it
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def _names(path: Path) -> list[str]:
    raw = path.read_bytes()
    return [
        name for name in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]) if "_" not in name[:2]
    ]


def test_what_transformers_saves_is_read_and_cast(tmp_path):
    """A redundant copy of tied embeddings, which some folders have, is ignored."""
    model = YoutuForCausalLM(convert.hf_config(TINY, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    assert same(convert.HFFolder(tmp_path / "theirs").items(), model.named_parameters())
    convert_folder(tmp_path / "theirs", tmp_path / "half", torch.bfloat16)
    half = convert.HFFolder(tmp_path / "half")
    assert same(half.items(), {name: value.bfloat16() for name, value in model.named_parameters()})
    assert read_json(tmp_path / "half" / "config.json")["eos_token_id"] == 2
    assert (tmp_path / "half" / "tokenizer.json").exists()
    with pytest.raises(StemmaError, match="exists already"):
        convert_folder(tmp_path / "theirs", tmp_path / "half")
    with pytest.raises(StemmaError, match=r"holds no tokenizer: it has no tokenizer\.json"):
        convert_folder(tmp_path / "theirs", tmp_path / "other", tokenizer=tmp_path)
    assert not (tmp_path / "other").exists()
    state = dict(half.items()) | {"lm_head.weight": half["model.embed_tokens.weight"]}
    assert "output_layer.weight" not in convert.hf_to_megatron(state, TINY)


def test_of_mixed_types_none_is_narrowed_unasked(tmp_path):
    """Some folders keep norms in fp32 and matrices in bf16, or the other way round."""
    for name, half in (
        ("norms", lambda tensor: tensor.ndim == 1),
        ("matrices", lambda tensor: tensor.ndim > 1),
    ):
        weights = {key: value.bfloat16() if half(value) else value for key, value in weights_of(TINY).items()}
        convert.write_hf(tmp_path / name, weights, TINY)
        save_file(weights, tmp_path / name / "model.safetensors")
        convert_folder(tmp_path / name, tmp_path / f"{name}-out")
        out = convert.HFFolder(tmp_path / f"{name}-out")
        assert same(out.items(), {key: value.float() for key, value in weights.items()})


def test_wrong_weights_are_refused_with_their_names(tmp_path):
    weights = weights_of(TINY)
    norm = weights.pop("model.norm.weight")
    with pytest.raises(StemmaError, match=r"missing \['model.norm.weight'\], unknown \['model.extra'\]"):
        convert.hf_to_megatron(weights | {"model.extra": norm}, TINY)
    with pytest.raises(StemmaError, match=r"model.norm.weight is \[3\] in place of \[32\]"):
        convert.hf_to_megatron(weights | {"model.norm.weight": norm[:3]}, TINY)
    for wrong, said in (
        (weights, "1 tensors never came: .'model.norm.weight'."),
        (weights | {"model.norm.weight": norm[:3]}, r"is \[3\], expected \[32\]"),
        (weights | {"model.extra": norm}, "model.extra is no tensor of this model"),
    ):
        with pytest.raises(StemmaError, match=said):
            convert.write_hf(tmp_path, wrong, TINY)
    assert not list(tmp_path.glob("*.safetensors*"))
    assert not list(tmp_path.glob(".*.safetensors.*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"attention_bias": True}, "attention_bias is True, not False"),
        ({"rope_interleave": False}, "rope_interleave is False"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is not"),
        ({"kv_lora_rank": 8}, r"kv_a_layernorm.weight is \[16\] in place of \[8\]"),
        ({"hidden_size": -32}, "(?s)config.json describes no model: .*hidden_size"),
    ],
)
def test_a_model_of_another_kind_is_refused_with_the_reason(changes, said, tmp_path):
    convert.write_hf(tmp_path, weights_of(TINY), TINY)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | changes)
    with pytest.raises(StemmaError, match=said):
        convert.HFFolder(tmp_path)


def test_damaged_folders_are_refused_by_name(tmp_path):
    with pytest.raises(StemmaError, match="holds no model"):
        open_weights(tmp_path)
    convert.write_hf(tmp_path, weights_of(TINY), TINY, shard_bytes=9_000)
    first = next(iter(sorted(tmp_path.glob("*.safetensors"))))
    raw = first.read_bytes()
    first.write_bytes(raw[:-100])
    with pytest.raises(DamagedError, match=first.name):
        convert.HFFolder(tmp_path)
    first.unlink()
    with pytest.raises(DamagedError, match="names files that are missing"):
        convert.HFFolder(tmp_path)
    write_json(tmp_path / "model.safetensors.index.json", {})
    with pytest.raises(DamagedError, match="has no weight_map"):
        convert.HFFolder(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    eight_bits = {key: value.to(torch.float8_e4m3fn) for key, value in weights_of(TINY).items()}
    save_file(eight_bits, tmp_path / "model.safetensors")
    with pytest.raises(StemmaError, match="as F8_E4M3; only F32, BF16, F16 can be read"):
        convert.HFFolder(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "youtu"})
    with pytest.raises(DamagedError, match=r"it lacks \['hidden_size', 'intermediate_size'"):
        convert.HFFolder(tmp_path)


def test_a_padding_id_is_refused_because_loading_would_zero_its_row():
    with pytest.raises(ValueError, match="pad_token_id"):
        convert.hf_config_dict(TINY, bos_token_id=1, eos_token_id=2, pad_token_id=2)
