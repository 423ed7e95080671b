"""Continued pretraining: a stage that starts from a Hugging Face folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import ImportConfig, ModelConfig
from pretrain.imported import ImportStage
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.progress import Progress
from stemma.core.stage import Execution, execute
from stemma.pipeline import nodes


@pytest.fixture
def take(tiny_model: ModelConfig, inputs: dict[str, Artifact], tmp_path: Path) -> Callable[..., Artifact]:
    """``take(folder, **shape)``: the artifact of a model from elsewhere."""

    def make(folder: Path, **shape: Any) -> Artifact:
        config = ImportConfig(folder=str(folder), model=tiny_model.model_copy(update=shape))
        stage = ImportStage("init", config, {"tokenizer": inputs["tokenizer"]})
        return execute(stage, Store(tmp_path / "store"))

    return make


def test_training_goes_on_from_where_the_folder_is(
    run: Callable[..., Any], take: Callable[..., Artifact], inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """Bits per byte before the first step are, bit for bit, those the model was exported with."""
    first = run(tmp_path / "first")["summary"]
    folder = shutil.copytree(tmp_path / "first" / "artifact" / "hf", tmp_path / "elsewhere")
    tokenizer = inputs["tokenizer"].path / "hf" / "tokenizer.json"
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    artifact = take(folder)
    second = run(tmp_path / "second", init=artifact.path / "checkpoint")["summary"]
    assert second["bits_per_byte"]["before"] == first["bits_per_byte"]["after"]
    assert second["loss_first"] < first["loss_first"]

    assert take(folder.rename(tmp_path / "moved")).fingerprint == artifact.fingerprint  # content, not path
    moved = tmp_path / "moved"
    with pytest.raises(StemmaError, match=r"is not the model .*: num_layers: 2 -> 3"):
        take(moved, num_layers=3)
    words = read_json(moved / "tokenizer.json")
    vocabulary = words["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    write_json(moved / "tokenizer.json", words)
    with pytest.raises(
        StemmaError, match=r"2 entries have other ids, 0 are missing; the first is 'A', 66 there"
    ):
        take(moved)
    (moved / "model.safetensors").unlink()
    with pytest.raises(StemmaError, match="holds no weights"):
        take(moved)


def test_a_folder_that_is_not_there_is_told_before_anything_starts(tiny_model: ModelConfig) -> None:
    stage = ImportStage("init", ImportConfig(folder="/nowhere", model=tiny_model), {})
    with pytest.raises(StemmaError, match="/nowhere is no Hugging Face folder"):
        stage.resolve(Path(), Execution(), Progress("init", []))


def test_the_first_training_stage_takes_it_in() -> None:
    by_name = {node.name: node for node in nodes(imported=True)}
    assert by_name["commonsense"].inputs["init"] == "init"
    assert by_name["stem"].inputs["init"] == "commonsense"
    names = list(by_name)
    assert names.index("tokenizer") < names.index("init") < names.index("commonsense")
    assert [node.name for node in nodes()] == [name for name in names if name != "init"]
