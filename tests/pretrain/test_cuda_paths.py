"""What a CPU can prove of the paths that only CUDA takes. The rest is for ``make gpu-check``."""

import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from pretrain.config import FP8Config
from pretrain.model import build_model, layer_spec, megatron_config
from pretrain.precision import Machine
from tests.pretrain.helpers import REFERENCE, TINY, build

# isort: split
from megatron.core.extensions import transformer_engine
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear


def test_the_model_runs_as_on_cuda_without_transformer_engine() -> None:
    """The 2B shape and a small one, on fake tensors, with Megatron as it is there; documents or not."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.pretrain.as_on_cuda"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=root)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert int(ended.stdout.split()[0]) == REFERENCE.parameters == 1_961_560_064


class Column(ColumnParallelLinear):
    """Stands in for Transformer Engine's layer of the same signature and parameter names."""


class Row(RowParallelLinear):
    """As ``Column``."""


@pytest.mark.parametrize("q_lora_rank", [24, None])
def test_fp8_layers_are_transformer_engines_under_the_same_names(
    monkeypatch: pytest.MonkeyPatch, q_lora_rank: int | None
) -> None:
    monkeypatch.setattr(transformer_engine, "TEColumnParallelLinear", Column)
    monkeypatch.setattr(transformer_engine, "TERowParallelLinear", Row)
    with mock.patch("megatron.core.transformer.multi_latent_attention.TEColumnParallelLinear", Column):
        shape = TINY.model_copy(update={"q_lora_rank": q_lora_rank})
        engine = build(shape)  # joins; its model is plain
        names = {name: parameter.shape for name, parameter in engine.module.named_parameters()}
        config = megatron_config(shape)
        with mock.patch("pretrain.model.layer_spec", return_value=layer_spec(fp8=True)):
            module = build_model(shape, config)
        engine.close()
    assert {name: parameter.shape for name, parameter in module.named_parameters()} == names
    kinds = {name.split(".")[-1]: type(layer) for name, layer in module.decoder.layers[0].named_modules()}
    linear = {name: kind for name, kind in kinds.items() if name.startswith("linear_")}
    rows = {"linear_proj", "linear_fc2"}
    assert linear == {name: Row if name in rows else Column for name in linear}
    assert len(linear) == (7 if q_lora_rank else 6)


def test_every_recipe_makes_a_config_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gpu.shapes import WIDE

    monkeypatch.setattr(Machine, "here", lambda: Machine((10, 0), (2, 8)))
    for recipe in ("tensorwise", "delayed", "blockwise", "mxfp8"):
        assert megatron_config(WIDE, "fp8", fp8=FP8Config(recipe=recipe)).fp8_recipe == recipe
