"""SFT and RL in 16 bits: the stages run, and fp16 keeps trainer and sampler closer together than bf16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from environments.catalog import make_environments
from posttrain.config import RLConfig, RLStageConfig, SFTConfig, SFTStageConfig
from posttrain.rl import RLStage
from posttrain.rl_objective import PolicyGradient
from posttrain.sft import SFTStage
from pretrain.config import ModelConfig
from pretrain.engine import Engine
from stemma.core.artifact import Artifact
from stemma.core.files import read_json, read_jsonl
from stemma.core.stage import Execution
from tests.posttrain.conftest import tiny_model, training_config
from tests.programs import finish, start_stage


@pytest.mark.slow
def test_stages_train_and_export_in_16_bits(
    tokenizer_artifact: Artifact,
    init: Artifact,
    trajectories: Artifact,
    model_config: ModelConfig,
    sft_config: Callable[..., SFTConfig],
    rl_config: Callable[..., RLConfig],
    tmp_path: Path,
) -> None:
    def training(precision: str, **changes: Any) -> dict[str, Any]:
        return training_config(precision=precision, **changes).model_dump()

    inputs = {"tokenizer": tokenizer_artifact, "init": init}
    sft = SFTStageConfig(model=model_config, sft=sft_config(training=training("bf16")))
    rl = RLStageConfig(model=model_config, rl=rl_config(training=training("fp16", global_batch_size=12)))
    programs = {
        "bfloat16": start_stage(
            tmp_path / "sft", SFTStage, "sft", sft, inputs | {"trajectories": trajectories}
        ),
        "float16": start_stage(tmp_path / "rl", RLStage, "rl", rl, inputs),
    }
    for dtype, program in programs.items():
        _, artifact = finish(program)
        assert read_json(artifact.path / "hf" / "config.json")["dtype"] == dtype
        with safe_open(artifact.path / "hf" / "model.safetensors", "pt") as weights:
            names = weights.offset_keys()
            assert {str(weights.get_tensor(name).dtype) for name in names} == {f"torch.{dtype}"}
        losses = [float.fromhex(line["loss"]) for line in read_jsonl(artifact.path / "receipts.jsonl")]
        assert np.isfinite(losses).all()
        if dtype == "bfloat16":
            assert losses[-1] < losses[0] - 0.5


def test_in_fp16_the_trainer_agrees_with_the_sampler_better_than_in_bf16(
    rl_config: Callable[..., RLConfig],
    model_config: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    gaps = {}
    for precision in ("bf16", "fp16"):
        config = rl_config(training=training_config(global_batch_size=12, precision=precision).model_dump())
        engine = Engine.build(model_config, config.training, Execution(threads=1))
        engine.load_hf_state_dict({name: value.detach() for name, value in tiny_model().named_parameters()})
        environments = make_environments({name: task.environment for name, task in config.tasks.items()})
        objective = PolicyGradient(engine, config, tokenizer, environments, tmp_path / f"{precision}.jsonl")
        batch = objective.batch(0, engine)
        assert not engine.train_step(batch, objective.loss, 1e-3).skipped
        gaps[precision] = max(
            float(np.abs(np.subtract(one.old_logprobs, one.sampler_logprobs)).max())
            for one in objective.experiences
            if one.old_logprobs is not None
        )
        engine.close()
    assert gaps["fp16"] < 2e-3
    assert gaps["bf16"] > 3 * gaps["fp16"]
