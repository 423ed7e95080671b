"""A real tokenizer of 512 entries, a tiny model, and environments: what every test here plays with."""

import copy
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedTokenizerFast, YoutuForCausalLM

from environments.base import Environment, Task
from environments.catalog import make_environment
from environments.config import PythonMathConfig, ReasoningConfig
from pretrain.config import ModelConfig
from pretrain.convert import hf_config
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.stage import Stage, Workspace, execute
from tokenizer.chat import render
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.stage import TokenizerStage

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("posttrain", deadline=None)  # the first call into torch takes a second
settings.load_profile("posttrain")

VOCABULARY = 512
MODEL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_layers": 2,
    "num_attention_heads": 2,
    "ffn_hidden_size": 96,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
}
COINS = ReasoningConfig(dataset="coin_flip", parameters={"min_trials": 1, "max_trials": 3})
SPELL = ReasoningConfig(dataset="spell_backward", parameters={"min_word_len": 3, "max_word_len": 4})
MATHS = PythonMathConfig(templates=("sum",), digits=(1, 1), phrasings=1, thoughts=False)


class Texts(Stage):
    """Documents in the columns the tokenizer reads."""

    kind = "test_corpus"

    def run(self, work: Workspace) -> dict[str, Any]:
        folder = work.path / "documents" / "tasks"
        folder.mkdir(parents=True)
        environments = [make_environment(COINS), make_environment(SPELL), make_environment(MATHS)]
        rows = []
        for environment in environments:
            tasks = [environment.draw(0, index) for index in range(60)]
            for task, episode in zip(tasks, environment.experts(tasks)):
                text = "\n".join(str(message) for message in [*task.messages, *task.tools, *episode])
                rows.append({"id": task.id, "text": text, "source": "tasks", "domain": "agent"})
        rows = [row | {"language": "en", "split": "train"} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
        return {}


@pytest.fixture(scope="session")
def tokenizer_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    store = Store(tmp_path_factory.mktemp("tokenizer"))
    corpus = execute(Texts("corpus", Config(), {}), store)
    config = TokenizerConfig(vocab_size=VOCABULARY, special_slots=16, sample_bytes=200_000)
    return execute(TokenizerStage("tokenizer", config, {"corpus": corpus}), store)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_artifact: Artifact) -> PreTrainedTokenizerFast:
    return load(tokenizer_artifact.path / "hf")


@pytest.fixture(scope="session")
def coins() -> Environment:
    return make_environment(COINS)


@pytest.fixture(scope="session")
def maths() -> Environment:
    return make_environment(MATHS)


def tiny_model(seed: int = 0) -> YoutuForCausalLM:
    """Random weights, spread widely enough that likeliest tokens are not ties."""
    torch.manual_seed(seed)
    model = YoutuForCausalLM(hf_config(ModelConfig.model_validate(MODEL))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.1)
    return model


@pytest.fixture(scope="session")
def model() -> YoutuForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def expert_task(maths: Environment) -> Task:
    return maths.draw(0, 0)


@pytest.fixture(scope="session")
def trained(
    model: YoutuForCausalLM, tokenizer: PreTrainedTokenizerFast, maths: Environment, expert_task: Task
) -> YoutuForCausalLM:
    """A model that knows one expert episode with a tool call by heart."""
    episode = [*expert_task.messages, *maths.expert(expert_task)]
    ids = torch.tensor([render(tokenizer, episode, expert_task.tools).ids])
    learner = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    for _ in range(150):
        loss = learner(input_ids=ids, labels=ids).loss
        if loss < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    return learner.eval()


def repository() -> Path:
    return Path(__file__).resolve().parent.parent.parent
