"""Evaluation of a real (untrained) model on real environments, and its figures by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from environments.base import Task, assistant, is_held_out
from environments.config import PythonMathConfig, ReasoningConfig
from evaluation.config import EvaluationConfig, TaskConfig
from evaluation.stage import EvaluationStage, requests, score
from posttrain.rollouts import Rollout
from pretrain.config import ModelConfig
from pretrain.convert import hf_config
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, read_jsonl
from stemma.core.progress import Event
from stemma.core.stage import Stage, Workspace, execute
from tokenizer.config import TokenizerConfig
from tokenizer.export.hf import save_folder
from tokenizer.learning.hf_trainer import train_hf

MODEL = ModelConfig(
    vocab_size=512,
    hidden_size=32,
    num_layers=1,
    num_attention_heads=2,
    ffn_hidden_size=64,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    max_position_embeddings=1024,
)
CONFIG = EvaluationConfig(
    tasks={
        "sums": TaskConfig(
            environment=ReasoningConfig(dataset="basic_arithmetic"), items=5, max_new_tokens=8
        ),
        "tools": TaskConfig(environment=PythonMathConfig(), items=3, max_new_tokens=12, max_turns=2),
    },
    samples=2,
    batch_size=3,
)


class TinyTokenizer(Stage):
    kind = "test_tokenizer"

    def run(self, work: Workspace) -> dict[str, Any]:
        config = TokenizerConfig(vocab_size=MODEL.vocab_size, special_slots=16)
        text = Path(__file__).read_text()
        save_folder(train_hf(config.learned_size, iter([text]), 1), config.special_slots, work.path / "hf")
        return {}


class TinyModel(Stage):
    kind = "test_training"

    def run(self, work: Workspace) -> dict[str, Any]:
        import torch
        from transformers import YoutuForCausalLM

        torch.manual_seed(0)
        YoutuForCausalLM(hf_config(MODEL)).save_pretrained(work.path / "hf")
        return {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def inputs(store: Store) -> dict[str, Artifact]:
    return {
        "model": execute(TinyModel("sft", Config(), {}), store),
        "tokenizer": execute(TinyTokenizer("tokenizer", Config(), {}), store),
    }


def episode(reward: float, answer: str = "7", truncated: bool = False) -> Rollout:
    task = Task("t:0:0", "t", 0, 0, ({"role": "user", "content": "?"},), (), "7")
    return Rollout(task, [1], [2, 3], [1, 0], [0.0, 0.0], [assistant(answer)], truncated, reward)


def test_a_stage_scores_every_task_and_keeps_transcripts(store: Store, inputs: dict[str, Artifact]) -> None:
    events: list[Event] = []
    artifact = execute(EvaluationStage("eval.sft", CONFIG, inputs), store, listeners=[events.append])
    results = read_json(artifact.file("results.json"))
    assert results["model"] == inputs["model"].fingerprint
    assert {name: result["items"] for name, result in results["tasks"].items()} == {"sums": 5, "tools": 3}
    for name, result in results["tasks"].items():
        assert 0 <= result["reward"] <= 1
        assert 0 < result["tokens"] <= 2 * 12
        assert artifact.summary["scores"][name] == result["reward"]
    kept = list(read_jsonl(artifact.file("samples.jsonl")))
    assert [sample["task"] for sample in kept] == ["sums", "sums", "tools", "tools"]
    assert all(sample["messages"][-1]["role"] in ("assistant", "tool") for sample in kept)
    assert [event.step for event in events if event.kind == "step"] == [3, 6, 8]


def test_the_same_config_gives_the_same_files(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    files = [
        execute(EvaluationStage("eval.sft", CONFIG, inputs), Store(tmp_path / name)).manifest["files"]
        for name in ("first", "second")
    ]
    assert files[0] == files[1]


def test_items_are_held_out_and_the_same_for_every_model() -> None:
    first, second, other = (
        {name: [request.task for request in task] for name, task in requests(config).items()}
        for config in (CONFIG, CONFIG, CONFIG.model_copy(update={"seed": 800}))
    )
    assert {name: len(tasks) for name, tasks in first.items()} == {"sums": 5, "tools": 3}
    for name, tasks in first.items():
        assert all(is_held_out(task) for task in tasks)
        assert len({task.messages[-1]["content"] for task in tasks}) == len(tasks)
        assert [task.messages for task in tasks] == [task.messages for task in second[name]]
        assert [task.messages for task in tasks] != [task.messages for task in other[name]]


def test_no_question_is_asked_twice_even_if_there_are_few() -> None:
    parameters = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    sums = TaskConfig(
        environment=ReasoningConfig(dataset="chain_sum", parameters=parameters), items=64, max_new_tokens=4
    )
    asked = [
        request.task.messages[-1]["content"]
        for request in requests(EvaluationConfig(tasks={"sums": sums}))["sums"]
    ]
    assert 4 < len(asked) < 64
    assert len(set(asked)) == len(asked)


def test_figures_by_hand() -> None:
    figures = score([episode(1.0), episode(0.0, answer=""), episode(0.5, truncated=True), episode(1.0)])
    mean = 2.5 / 4
    variance = ((1 - mean) ** 2 * 2 + mean**2 + (0.5 - mean) ** 2) / 3
    assert figures == {
        "items": 4,
        "reward": mean,
        "standard_error": pytest.approx(math.sqrt(variance / 4)),
        "format_rate": 0.5,  # one said nothing, one was cut off
        "tokens": 1.0,
    }
    assert score([episode(1.0)])["standard_error"] == 0.0


def test_an_unknown_data_set_is_refused_before_anything_is_played() -> None:
    task = TaskConfig(environment=ReasoningConfig(dataset="no_such"), items=1, max_new_tokens=1)
    with pytest.raises(StemmaError, match="no data set 'no_such'"):
        requests(EvaluationConfig(tasks={"x": task}))


def test_task_names_are_checked() -> None:
    with pytest.raises(ValueError, match=r"task name 'Two Words'"):
        EvaluationConfig(tasks={"Two Words": CONFIG.tasks["sums"]})
