"""The exported folder: what transformers makes of it, and what Megatron makes of it, are the same model.

The model here is a real one: Megatron's, trained by the engine until it knows two answers by heart.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.card import CardFacts, render_card
from posttrain.config import ExportConfig
from posttrain.export import ExportError, ExportStage, check_folder, has_code, token_ids
from posttrain.padded import padded_batch
from pretrain.batch import Sample
from pretrain.config import ModelConfig, ScheduleConfig, TrainingConfig
from pretrain.convert import megatron_names, write_hf
from pretrain.engine import Engine
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.files import read_json, write_json
from stemma.core.stage import Execution, Stage, Workspace, execute
from tokenizer.chat import render
from tokenizer.config import TokenizerConfig
from tokenizer.export import hf, scaffold
from tokenizer.learning.hf_trainer import train_hf
from tokenizer.load import load
from tokenizer.vocabulary import Entry, Vocabulary

ROPE_THETA = 50_000.0  # of a later stage: not the model's own
MODEL = ModelConfig(
    vocab_size=304,
    hidden_size=64,
    num_layers=2,
    num_attention_heads=2,
    ffn_hidden_size=128,
    q_lora_rank=32,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=16,
    v_head_dim=16,
    max_position_embeddings=512,
    rope_theta=10_000.0,
)
TRAINING = TrainingConfig(
    seed=1,
    micro_batch_size=2,
    global_batch_size=2,
    schedule=ScheduleConfig(peak_lr=5e-3),
    rope_theta=ROPE_THETA,
)
ANSWERS = {"What is 3 + 4?": "It is seven.", "Who are you?": "A small model, well read in nothing."}
BITS = {"before": {"web": 3.25}, "after": {"web": 1.5}}


class TinyTokenizer(Stage):
    kind = "test_tokenizer"

    def run(self, work: Workspace) -> dict[str, Any]:
        config = TokenizerConfig(vocab_size=MODEL.vocab_size, special_slots=16)
        trained = train_hf(config.learned_size, iter([*ANSWERS, *ANSWERS.values()] * 5), 1)
        hf.save_folder(trained, config.special_slots, work.path / "hf")
        return {}


class TinyCorpus(Stage):
    kind = "test_corpus"

    def run(self, work: Workspace) -> dict[str, Any]:
        source = {
            "id": "wiki",
            "domain": "web",
            "language": "en",
            "licence": "CC-BY-SA-4.0",
            "archive": "w|1.whl",
        }
        write_json(work.path / "sources.json", [source])
        return {}


class TinyTraining(Stage):
    """Learns the answers by heart."""

    kind = "test_training"

    def run(self, work: Workspace) -> dict[str, Any]:
        tokenizer = load(self.inputs["tokenizer"].path / "hf")
        engine = Engine.build(MODEL, TRAINING, Execution(threads=1))
        try:
            batch = padded_batch(samples(tokenizer), 2, 0, 1)
            losses = []
            for _ in range(60):
                result = engine.train_step(
                    batch,
                    lambda logits, micro: (
                        (engine.token_loss(logits, micro.labels) * micro.loss_mask).sum(),
                        {},
                    ),
                    TRAINING.schedule.peak_lr,
                )
                losses.append(result.loss)
            write_hf(work.path / "hf", engine.hf_state_dict(), MODEL, rope_theta=engine.rope_theta)
        finally:
            engine.close()
        counts = {
            "domains": {"wiki": "web"},
            "counts": {"wiki": {"samples": 2, "tokens": 120, "supervised": 60}},
        }
        write_json(work.path / "ledger.json", {"planned": counts, "realized": counts})
        return {
            "tokens": 7200,
            "steps": 60,
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "bits_per_byte": BITS,
        }


class TinyEvaluation(Stage):
    kind = "test_evaluation"

    def run(self, work: Workspace) -> dict[str, Any]:
        reward = 0.125 if self.inputs["model"].name == "sft" else 0.25
        score = {"items": 8, "reward": reward, "standard_error": 0.0625, "format_rate": 1.0}
        write_json(work.path / "results.json", {"tasks": {"sums": score}})
        return {"scores": {"sums": reward}}


def samples(tokenizer: Any) -> list[Sample]:
    rows = []
    for question, answer in ANSWERS.items():
        chat = render(
            tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        )
        ids = np.array(chat.ids + [chat.ids[-1]] * (64 - len(chat.ids)))
        mask = np.array(chat.assistant_mask[1:] + [False] * (64 - len(chat.ids)), dtype=np.float32)
        rows.append(Sample("wiki", ids[:-1], ids[1:], mask))
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def made(store: Store) -> dict[str, Artifact]:
    """Everything an export is made from, and the export."""
    corpus = execute(TinyCorpus("corpus", Config(), {}), store)
    tokenizer = execute(TinyTokenizer("tokenizer", Config(), {"corpus": corpus}), store)
    sft = execute(TinyTraining("sft", Config(), {"tokenizer": tokenizer}), store)
    model = execute(TinyTraining("rl", Config(), {"tokenizer": tokenizer, "init": sft}), store)
    scored = {
        f"eval.{node.name}": execute(TinyEvaluation(f"eval.{node.name}", Config(), {"model": node}), store)
        for node in (sft, model)
    }
    config = ExportConfig(title="Tiny", description="Knows two answers.", licence="apache-2.0")
    inputs = {
        "model": model,
        "tokenizer": tokenizer,
        "corpus": corpus,
        "sft": sft,
        **scored,
    }
    export = execute(ExportStage("export", config, inputs), store)
    return {**inputs, "export": export}


@pytest.fixture(scope="module")
def folder(made: dict[str, Artifact]) -> Path:
    return made["export"].path / "hf"


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    """An engine with other weights of its own that took over the exported ones."""
    built = Engine.build(MODEL, TRAINING.model_copy(update={"seed": 99}), Execution(threads=1))
    built.load_hf_state_dict(load_file(folder / "model.safetensors"))
    yield built
    built.close()


def test_logits_are_megatrons(folder: Path, engine: Engine) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(0, MODEL.vocab_size, (3, 200), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.no_grad():
        theirs = model(tokens).logits
        ours = engine.module(tokens, positions, None)
    assert theirs.dtype == ours.dtype == torch.float32
    assert theirs.abs().max() > 1  # a trained model, not a flat one
    assert (theirs - ours).abs().max() <= 1e-5


def test_weights_survive_the_way_through_megatron_bit_for_bit(folder: Path, engine: Engine) -> None:
    exported = load_file(folder / "model.safetensors")
    returned = engine.hf_state_dict()
    assert exported.keys() == returned.keys()
    assert len(exported) == len(megatron_names(MODEL)) + MODEL.num_layers  # gate and up are one in Megatron
    for name, tensor in exported.items():
        assert tensor.dtype == returned[name].dtype
        assert tensor.numpy().tobytes() == returned[name].contiguous().numpy().tobytes(), name


@pytest.mark.parametrize("question", ANSWERS)
def test_it_answers_through_the_chat_template(folder: Path, question: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**prompt, do_sample=False, max_new_tokens=60)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(written) == ANSWERS[question] + tokenizer.eos_token  # it also knows when to stop


def test_configs_say_how_to_read_and_to_sample(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    defaults = model.generation_config
    assert (defaults.top_k, defaults.top_p, defaults.temperature, defaults.do_sample) == (20, 0.95, 1.0, True)
    assert defaults.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert defaults.pad_token_id == tokenizer.pad_token_id
    assert model.config.rope_parameters["rope_theta"] == ROPE_THETA
    assert model.num_parameters() == MODEL.parameters


def test_the_card_holds_the_runs_figures_and_every_ancestor(made: dict[str, Artifact], folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\n')
    assert "# Tiny" in card
    assert f"{MODEL.parameters:,} parameters" in card
    for artifact in made.values():
        if artifact.name != "export":
            assert artifact.fingerprint in card
    assert "| rl | 60 | 7,200 |" in card
    assert "3.25 → 1.5" in card
    assert "| rl | 0.250 ± 0.062 |" in card
    assert "Before → after RL: sums 0.125 → 0.250." in card
    assert "120 / 120" in card
    assert "| wiki | web | CC-BY-SA-4.0 | w\\|1.whl |" in card
    assert "far too few" in card
    assert card.index("| sft | 60") < card.index("| rl | 60")  # in the order they were trained
    assert made["export"].summary["parameters"] == MODEL.parameters


def test_an_interrupted_export_is_made_anew(made: dict[str, Artifact], store: Store, tmp_path: Path) -> None:
    """What lies in the work folder of a killed attempt does not get into the result."""
    inputs = {role: artifact for role, artifact in made.items() if role != "export"}
    stage = ExportStage("export", ExportConfig(title="Other"), inputs)
    half = store.folder(stage.name, stage.fingerprint) / "hf"
    half.mkdir(parents=True)
    (half / "model-00001-of-00002.safetensors").write_bytes(b"torn")
    artifact = execute(stage, store)
    assert not any("00001-of" in name for name in artifact.manifest["files"])
    assert (
        artifact.manifest["files"]["hf/model.safetensors"]
        == (made["export"].manifest["files"]["hf/model.safetensors"])
    )


def test_weights_that_do_not_belong_are_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ExportError, match=r"missing_keys.*layers\.2\."):
        check_folder(tmp_path)


def test_a_config_that_makes_transformers_alter_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """With ``pad_token_id`` in the config, transformers zeroes the end token's embedding on loading."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(config | {"pad_token_id": config["eos_token_id"]}))
    with pytest.raises(ExportError, match=r"embed_tokens\.weight is not what model\.safetensors holds"):
        check_folder(tmp_path)


def test_a_model_without_weights_is_refused(made: dict[str, Artifact], store: Store) -> None:
    inputs = {"model": made["corpus"], "tokenizer": made["tokenizer"]}
    with pytest.raises(ExportError, match="no folder hf/"):
        execute(ExportStage("export", ExportConfig(title="None"), inputs), store)


def test_a_tokenizer_that_brings_code_is_read_with_it_and_the_card_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    entries = [Entry(b"ab", "general", scaffold=True), Entry(b"abc", "general")]
    scaffold.save_folder(Vocabulary().extended(entries), 16, tmp_path / "hf")
    assert token_ids(tmp_path / "hf") == {"bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 258}
    assert has_code(tmp_path / "hf")
    shape = {"model_type": "youtu", "vocab_size": 273, "hidden_size": 64}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512}
    facts = CardFacts("title", "description", "mit", ["en"], 1, shape, [], [], [])
    trusting = 'AutoTokenizer.from_pretrained("PATH", trust_remote_code=True)'
    assert trusting in render_card(replace(facts, tokenizer_has_code=True))
    assert "trust_remote_code" not in render_card(facts)
