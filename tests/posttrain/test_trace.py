"""Rows of SFT and RL steps are named as they were trained."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.config import RLConfig, RLStageConfig, SFTConfig, SFTStageConfig
from posttrain.conversations import read_conversations
from posttrain.sft_objective import FineTuning
from posttrain.trace import SHOWN, render_rows, step_rows
from pretrain.config import ModelConfig
from pretrain.engine import Engine
from stemma.core.artifact import Artifact
from stemma.core.config import Config, identity
from stemma.core.errors import StemmaError
from stemma.core.files import write_json
from tokenizer.load import load


@pytest.fixture
def record(tmp_path: Path) -> Callable[[str, Config], Path]:
    """``record(kind, config)``: a stage's folder, as far as a trace looks at it."""

    def make(kind: str, config: Config) -> Path:
        write_json(tmp_path / "stage.json", {"kind": kind, "config": identity(config)})
        return tmp_path

    return make


def printed(*arguments: Any) -> str:
    stream = io.StringIO()
    rows, *row = arguments
    render_rows(rows, Console(file=stream, width=140), *row)
    return stream.getvalue()


def test_the_rows_of_an_sft_step_are_those_its_objective_read(
    engine: Engine,
    sft_config: Callable[..., SFTConfig],
    model_config: ModelConfig,
    trajectories: Artifact,
    tokenizer_artifact: Artifact,
    record: Callable[[str, Config], Path],
) -> None:
    config = sft_config()
    folder = record("sft", SFTStageConfig(model=model_config, sft=config))
    path, loaded = trajectories.file("trajectories.jsonl"), load(tokenizer_artifact.path / "hf")
    found, _ = read_conversations(path, loaded, list(config.families), config.max_tokens)
    objective = FineTuning(engine, config, found)
    texts = {one.id: loaded.decode(one.ids.tolist()) for family in found.values() for one in family}
    for step in (0, objective.total_steps - 1):
        batch = objective.batch(step, engine)
        rows = step_rows(folder, tokenizer_artifact.path, path, step)
        assert sorted(row.identifier for row in rows) == sorted(one["trajectory"] for one in batch.pedigree)
        assert sum(row.tokens for row in rows) == sum(tokens for _, tokens, _ in batch.counts.values())
        assert all(row.text == texts[row.identifier] for row in rows)
        assert all(row.identifier in printed(rows) for row in rows[:SHOWN])
    with pytest.raises(StemmaError, match=f"steps 0 to {objective.total_steps - 1}"):
        step_rows(folder, tokenizer_artifact.path, path, objective.total_steps)


def test_the_rows_of_an_rl_step_are_its_rollouts(
    rl_config: Callable[..., RLConfig],
    model_config: ModelConfig,
    tokenizer_artifact: Artifact,
    record: Callable[[str, Config], Path],
) -> None:
    config = rl_config()
    folder = record("rl", RLStageConfig(model=model_config, rl=config))
    ids = load(tokenizer_artifact.path / "hf").encode("abc", add_special_tokens=False)
    lines = [
        {
            "batch": batch,
            "group": group,
            "task": "maths",
            "task_id": f"t{batch}.{group}.{number}",
            "prompt_ids": ids,
            "ids": ids,
            "rewards": {"total": 0.5},
            "advantage": -1.0,
            "left_out": "[too long]" if number else "",
        }
        for batch in range(2)
        for group in range(config.updates)
        for number in range(20)
    ]
    write = folder / "rollouts.jsonl"
    write.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = step_rows(folder, tokenizer_artifact.path, Path("none"), config.updates)
    assert [row.identifier for row in rows] == [f"t1.0.{number}" for number in range(20)]
    assert rows[0].text == "abcabc"
    shown = printed(rows)
    assert "reward 0.500, advantage -1.000" in shown
    assert "left out: [too long]" in shown
    assert "and 4 more rows" in shown
    assert "t1.0.19" in printed(rows, 19)
    with pytest.raises(StemmaError, match="rows 0 to 19, not 20"):
        printed(rows, 20)
    write.write_text("")
    with pytest.raises(StemmaError, match="no rollouts of step"):
        step_rows(folder, tokenizer_artifact.path, Path("none"), 0)
    write_json(folder / "stage.json", {"kind": "corpus", "config": {}})
    with pytest.raises(StemmaError, match="neither SFT nor RL"):
        step_rows(folder, tokenizer_artifact.path, Path("none"), 0)
