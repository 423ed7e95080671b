"""The training stages as the pipeline makes them: artifacts in, a sealed artifact out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from midtrain.config import MidtrainConfig
from midtrain.stage import MidtrainStage
from pretrain.config import ModelConfig, PretrainConfig, TrainingConfig
from pretrain.stage import PretrainStage
from pretrain.worker import last_rope_theta
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, read_jsonl
from stemma.core.progress import STEP, Event
from stemma.core.stage import Execution, execute


@pytest.mark.slow
def test_a_stage_continues_the_one_before_over_longer_sequences(
    inputs: dict[str, Artifact],
    make_plan: Callable[..., Artifact],
    tiny_model: ModelConfig,
    training: TrainingConfig,
    tmp_path: Path,
) -> None:
    store, execution = Store(tmp_path), Execution(threads=1)
    config = PretrainConfig(model=tiny_model, training=training)
    first = execute(PretrainStage("stem", config, {**inputs, "plan": make_plan(4)}), store, execution)

    events: list[Event] = []
    longer = MidtrainConfig(model=tiny_model, training=training, rope_theta={64: 5e4})
    given = {**inputs, "plan": make_plan(4, (32, 64)), "init": first}
    second = execute(MidtrainStage("general", longer, given), store, execution, [events.append])

    assert last_rope_theta(first.path) == 1e4
    assert last_rope_theta(second.path) == 5e4
    assert second.summary["bits_per_byte"]["before"] == first.summary["bits_per_byte"]["after"]
    assert second.summary["loss_first"] < first.summary["loss_first"]
    assert [line["tokens"] for line in read_jsonl(second.file("metrics.jsonl"))] == [128] * 4
    assert [event.step for event in events if event.kind == STEP] == [1, 2, 3, 4]
    ledger = read_json(second.file("ledger.json"))
    assert ledger["planned"] == ledger["realized"]
    for relative in ("checkpoint/manifest.json", "hf/config.json", "hf/model.safetensors", "evaluation.json"):
        second.file(relative)
    # What evaluation and rollouts load is what was trained: every row, the end token's too.
    loaded = AutoModelForCausalLM.from_pretrained(second.path / "hf").state_dict()
    saved = load_file(second.file("hf/model.safetensors"))
    assert saved
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_a_plan_for_other_tokens_or_another_batch_is_refused_before_anything_starts(
    inputs: dict[str, Artifact],
    make_plan: Callable[..., Artifact],
    tiny_model: ModelConfig,
    training: TrainingConfig,
    tmp_path: Path,
) -> None:
    given: dict[str, Any] = {**inputs, "plan": make_plan(), "tokens": inputs["tokenizer"]}
    stage = PretrainStage("stem", PretrainConfig(model=tiny_model, training=training), given)
    with pytest.raises(StemmaError, match=r"reads source .* make the plan anew"):
        execute(stage, Store(tmp_path))
    larger = training.model_copy(update={"global_batch_size": 8})
    stage = PretrainStage(
        "stem", PretrainConfig(model=tiny_model, training=larger), inputs | {"plan": make_plan()}
    )
    with pytest.raises(StemmaError, match="steps of 4 sequences, but global_batch_size is 8"):
        execute(stage, Store(tmp_path))
