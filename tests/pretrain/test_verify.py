"""The comparison of models finds what was changed, and nothing where nothing was."""

import pytest
import torch
from typer.testing import CliRunner

from pretrain import convert
from pretrain.verify import verify
from stemma.cli import app
from stemma.core.errors import StemmaError
from tests.pretrain.helpers import TINY, build, train


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """Both faces of one trained model, as a training stage leaves them."""
    folder = tmp_path_factory.mktemp("artifact")
    engine = build()
    train(engine, 0, 3)
    engine.save(folder / "checkpoint", {})
    engine.write_hf(folder / "hf")
    engine.close()
    return folder


def changed(artifact, folder, name, factor=1.001, **fields):
    """A copy with one tensor scaled, or other fields in its config."""
    weights = dict(convert.HFFolder(artifact / "hf").items())
    if name:
        weights[name] = weights[name] * factor
    convert.write_hf(folder, weights, TINY.model_copy(update=fields))
    return folder


def test_megatron_and_transformers_agree_in_every_block(artifact):
    outcome = verify(artifact / "checkpoint", artifact / "hf")
    assert [row.block for row in outcome.deviations] == [
        "embedding",
        *(f"layer {number} {part}" for number in range(2) for part in ("attention", "mlp")),
        "final norm",
        "logits",
    ]
    assert outcome.first is None
    assert outcome.notes == []
    assert outcome.agreement == 1.0
    assert 0 < max(row.reached for row in outcome.deviations) < 1e-5


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.0.self_attn.kv_b_proj.weight", "layer 0 attention"),
        ("model.layers.1.self_attn.q_a_layernorm.weight", "layer 1 attention"),
        ("model.layers.0.mlp.up_proj.weight", "layer 0 mlp"),
        ("model.layers.1.post_attention_layernorm.weight", "layer 1 mlp"),
        ("model.norm.weight", "final norm"),
    ],
)
def test_the_first_block_that_deviates_is_named(artifact, tmp_path, name, block):
    """By itself nothing behind it deviates, far off as it is by then, but what takes in its very output."""
    outcome = verify(artifact / "checkpoint", changed(artifact, tmp_path / "other", name))
    assert outcome.first == block
    alone = {row.block for row in outcome.deviations if row.alone > outcome.tolerance}
    assert alone <= {block, block.replace("attention", "mlp"), "logits" if block == "embedding" else block}
    assert outcome.deviations[-1].reached > outcome.tolerance
    assert outcome.notes == []


def test_a_wrong_rotary_base_shows_in_the_first_attention(artifact, tmp_path):
    outcome = verify(artifact / "hf", changed(artifact, tmp_path / "other", "", rope_theta=100.0))
    assert outcome.first == "layer 0 attention"
    assert outcome.notes == ["rope_theta: 1600000.0 -> 100.0"]


def test_what_is_not_a_number_deviates(artifact, tmp_path):
    other = changed(artifact, tmp_path / "other", "model.layers.1.mlp.up_proj.weight", torch.nan)
    assert verify(artifact / "hf", other).first == "layer 1 mlp"


def test_models_of_other_shapes_are_not_compared(artifact, tmp_path):
    wide = TINY.model_copy(update={"ffn_hidden_size": 64})
    weights = {name: torch.zeros(shape) for name, shape in convert.hf_shapes(wide).items()}
    convert.write_hf(tmp_path, weights, wide)
    with pytest.raises(StemmaError, match="ffn_hidden_size: 48 -> 64"):
        verify(artifact / "hf", tmp_path)


def test_the_command_line_converts_and_tells(artifact, tmp_path):
    run = CliRunner().invoke
    target = tmp_path / "hf"
    done = run(app, ["convert", str(artifact / "checkpoint"), str(target), "--shard-gigabytes", "1e-5"])
    assert done.exit_code == 0, done.output
    assert len(list(target.glob("*.safetensors"))) > 3
    agreed = run(app, ["verify-export", str(artifact)])
    assert agreed.exit_code == 0, agreed.output
    assert "every block of" in agreed.output
    other = changed(artifact, tmp_path / "other", "model.layers.1.mlp.up_proj.weight")
    told = run(app, ["verify-export", str(target), str(other)])
    assert "layer 1 mlp is the first block" in str(told.exception)
    told = run(app, ["verify-export", str(artifact), str(tmp_path / "model.gguf")])
    assert "is no Hugging Face folder with a tokenizer" in str(told.exception)
