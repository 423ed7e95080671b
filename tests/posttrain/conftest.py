"""A real tokenizer of 512 entries, a tiny model, and environments: what every test here plays with."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedTokenizerFast, YoutuForCausalLM

from environments.base import Environment, Task
from environments.catalog import make_environment
from environments.config import PythonMathConfig, ReasoningConfig
from posttrain.config import RLConfig, SFTConfig
from pretrain.config import ModelConfig, TrainingConfig
from pretrain.convert import hf_config
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.files import write_atomic
from stemma.core.stage import Execution, Stage, Workspace, execute
from tokenizer.chat import render
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.stage import TokenizerStage

if TYPE_CHECKING:
    from pretrain.engine import Engine

VOCABULARY = 512
THETA = 20000.0  # not the model's own: a long-context stage came before
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
    config = TokenizerConfig(vocab_size=VOCABULARY, special_slots=16, source_bytes=200_000)
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


class Untrained(Stage):
    """A training stage's artifact with the weights of ``tiny_model``."""

    kind = "test_init"

    def run(self, work: Workspace) -> dict[str, Any]:
        from pretrain.convert import write_hf
        from pretrain.engine import Engine

        model = ModelConfig.model_validate(MODEL)
        engine = Engine.build(model, training_config(), Execution(threads=1))
        state = {name: parameter.detach() for name, parameter in tiny_model().named_parameters()}
        engine.load_hf_state_dict(state)
        engine.save(work.path / "checkpoint", {})
        write_hf(work.path / "hf", state, model, rope_theta=THETA)
        engine.close()
        return {}


class Experts(Stage):
    """Trajectories of experts, in the format of ``midtrain.trajectories``."""

    kind = "test_trajectories"

    def run(self, work: Workspace) -> dict[str, Any]:
        lines = []
        for family, config in {"coins": COINS, "spell": SPELL, "maths": MATHS}.items():
            environment = make_environment(config)
            tasks = [environment.draw(0, index) for index in range(24)]
            for number, (task, episode) in enumerate(zip(tasks, environment.experts(tasks))):
                record = {
                    "id": f"{family}-{number}",
                    "family": family,
                    "split": "valid" if number < 3 else "train",
                }
                record |= {"messages": [*task.messages, *episode], "tools": list(task.tools)}
                lines.append(json.dumps(record))
        write_atomic(work.path / "trajectories.jsonl", "\n".join(lines) + "\n")
        return {}


@pytest.fixture(scope="session")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    store = Store(tmp_path_factory.mktemp("trajectories"))
    return execute(Experts("trajectories", Config(), {}), store)


@pytest.fixture(scope="session")
def init(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return execute(Untrained("agentic", Config(), {}), Store(tmp_path_factory.mktemp("init")))


@pytest.fixture
def engine() -> Iterator["Engine"]:
    """An engine of one process with the weights of ``tiny_model``."""
    from pretrain.engine import Engine

    built = Engine.build(ModelConfig.model_validate(MODEL), training_config(), Execution(threads=1))
    built.load_hf_state_dict({name: value.detach() for name, value in tiny_model().named_parameters()})
    yield built
    built.close()


def training_config(**changes: Any) -> TrainingConfig:
    fields: dict[str, Any] = {
        "micro_batch_size": 4,
        "global_batch_size": 8,
        "schedule": {"peak_lr": 3e-3},
        "carry_optimizer": False,
        "checkpoint_every": 3,
    }
    return TrainingConfig.model_validate(fields | changes)


def make_sft_config(**changes: Any) -> SFTConfig:
    fields: dict[str, Any] = {
        "training": training_config().model_dump(),
        "steps": 12,
        "families": {"coins": 0.5, "maths": 0.3, "spell": 0.2},
        "max_tokens": 512,
        "seed": 3,
    }
    return SFTConfig.model_validate(fields | changes)


def make_rl_config(**changes: Any) -> RLConfig:
    """Two prompts of each of three tasks, four rollouts of each, in two updates."""
    task = {"prompts": 2, "max_new_tokens": 12}
    fields: dict[str, Any] = {
        "training": training_config(global_batch_size=12).model_dump(),
        "tasks": {
            "coins": {"environment": COINS.model_dump(), **task},
            "spell": {"environment": SPELL.model_dump(), **task},
            "maths": {"environment": MATHS.model_dump(), **task, "max_turns": 2},
        },
        "rollout_batches": 4,
        "group_size": 4,
        "updates": 2,
        "seed": 5,
    }
    return RLConfig.model_validate(fields | changes)


@pytest.fixture(scope="session")
def sft_config() -> Callable[..., SFTConfig]:
    return make_sft_config


@pytest.fixture(scope="session")
def rl_config() -> Callable[..., RLConfig]:
    return make_rl_config


@pytest.fixture(scope="session")
def model_config() -> ModelConfig:
    return ModelConfig.model_validate(MODEL)
