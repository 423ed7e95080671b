"""Tiny but real inputs of a training stage: the running Python's own sources, in Megatron's format."""

import hashlib
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.config import PlanConfig
from data_pipeline.curriculum.stage import PlanStage
from pretrain.config import ModelConfig, TrainingConfig
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.files import write_json
from stemma.core.stage import Execution, Stage, Workspace, execute

VOCABULARY = 272
END = 256
CHUNK = 256
MODEL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 2,
    "ffn_hidden_size": 64,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
}
SOURCES = {"email": "web", "json": "code", "logging": "code"}


class ByteTokenizer(Stage):
    """A tokenizer whose ids are bytes, and one end-of-document token."""

    kind = "test_tokenizer"

    def run(self, work: Workspace) -> dict[str, Any]:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        from tokenizer.load import byte_characters

        characters = byte_characters()
        tokenizer = Tokenizer(models.BPE({character: byte for byte, character in enumerate(characters)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end_of_text|>")
        fast.save_pretrained(str(work.path / "hf"))
        return {}


class ByteTokens(Stage):
    """Packages of the standard library as shards: every third module is held out."""

    kind = "test_tokens"

    def run(self, work: Workspace) -> dict[str, Any]:
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

        library = Path(sysconfig.get_path("stdlib"))
        record: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "eos": END,
            "dtype": "uint16",
            "sequence_chunk": CHUNK,
        }
        record["sources"] = {}
        for source, domain in SOURCES.items():
            files = sorted((library / source).glob("*.py"))
            splits = {}
            for split in ("train", "valid"):
                folder = work.path / split
                folder.mkdir(exist_ok=True)
                texts = [
                    path.read_bytes() for at, path in enumerate(files) if (at % 3 == 2) == (split == "valid")
                ]
                builder = IndexedDatasetBuilder(str(folder / f"{source}.bin"), dtype=np.uint16)
                for text in texts:
                    ids = np.array([*text, END], dtype=np.uint16)
                    builder.add_document(ids, [len(ids)])
                builder.finalize(str(folder / f"{source}.idx"))
                sidecar = {"document": range(len(texts)), "start": [0] * len(texts)}
                sidecar |= {"id": [hashlib.sha256(text).hexdigest()[:20] for text in texts]}
                sidecar |= {"origin": [f"{source}#{at}" for at in range(len(texts))]}
                pq.write_table(pa.table(sidecar), folder / f"{source}.docs.parquet")
                size = sum(map(len, texts))
                splits[split] = {"documents": len(texts), "tokens": size + len(texts), "bytes": size}
            record["sources"][source] = {"domain": domain, "language": "en", "splits": splits}
        write_json(work.path / "tokens.json", record)
        return {}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Sealed ``tokens`` and ``tokenizer`` artifacts."""
    store = Store(tmp_path_factory.mktemp("inputs"))
    return {
        "tokens": execute(ByteTokens("tokens", Config(), {}), store),
        "tokenizer": execute(ByteTokenizer("tokenizer", Config(), {}), store),
    }


def plan_config(steps: int, global_batch_size: int = 4, lengths: tuple[int, ...] = (32,)) -> PlanConfig:
    """Phases of equal token budgets, one per sequence length, that add up to ``steps``."""
    budget = steps // len(lengths) * global_batch_size * lengths[0]
    phases = [
        {
            "name": f"at_{length}",
            "tokens": budget,
            "sequence_length": length,
            "weights": {"web": 1.0, "code": 2.0},
        }
        for length in lengths
    ]
    return PlanConfig.model_validate(
        {"curriculum": {"phases": phases}, "global_batch_size": global_batch_size}
    )


def training_config(**changes: Any) -> TrainingConfig:
    fields: dict[str, Any] = {
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "schedule": {"peak_lr": 3e-3, "shape": "cosine", "warmup_steps": 3, "end_lr": 3e-4},
        "validation_tokens": 256,
        "validation_length": 32,
        "checkpoint_every": 4,
    }
    return TrainingConfig.model_validate(fields | changes)


@pytest.fixture(scope="session")
def make_training() -> Callable[..., TrainingConfig]:
    """``make_training(**changes)``: how the tiny stage trains, but for some fields."""
    return training_config


@pytest.fixture(scope="session")
def tiny_model() -> ModelConfig:
    """The model all tests here train."""
    return ModelConfig.model_validate(MODEL)


@pytest.fixture
def training() -> TrainingConfig:
    """How the tiny stage trains."""
    return training_config()


@pytest.fixture
def engine() -> Iterator[Any]:
    """An engine of one process with fresh weights of the tiny model."""
    from pretrain.engine import Engine

    built = Engine.build(ModelConfig.model_validate(MODEL), training_config(), Execution(threads=1))
    yield built
    built.close()


@pytest.fixture(scope="session")
def make_plan(inputs: dict[str, Artifact]) -> Callable[..., Artifact]:
    """``make_plan(steps, lengths, batch)``: a plan over the tiny tokens."""

    def make(steps: int = 8, lengths: tuple[int, ...] = (32,), batch: int = 4) -> Artifact:
        store = Store(inputs["tokens"].path.parent.parent)
        stage = PlanStage("plan", plan_config(steps, batch, lengths), {"tokens": inputs["tokens"]})
        return execute(stage, store)

    return make


@pytest.fixture
def make_job(inputs: dict[str, Artifact]) -> Callable[..., Any]:
    """``make_job(folder, init, **training)``: what a worker is told, for running the loop in this process."""

    def make(folder: Path, init: Path | None = None, **training: Any) -> Any:
        from pretrain.launch import Job

        (folder / "artifact" / ".scratch").mkdir(parents=True, exist_ok=True)
        return Job(
            stage="stem",
            entry="pretrain.objective:language_model",
            arguments={},
            model=ModelConfig.model_validate(MODEL),
            training=training_config(**training),
            execution=Execution(threads=1),
            path=str(folder / "artifact"),
            scratch=str(folder / "artifact" / ".scratch"),
            init=str(init) if init else None,
            tokenizer=str(inputs["tokenizer"].path),
            validation=[str(inputs["tokens"].path)],
        )

    return make


LOOP_STEPS = 8


@pytest.fixture
def run(
    inputs: dict[str, Artifact], make_plan: Callable[..., Artifact], make_job: Callable[..., Any]
) -> Callable[..., dict[str, Any]]:
    """``run(folder, stop_after, objective_class, init, lengths, **training)``: one attempt at a stage."""
    from data_pipeline.curriculum.plan import Plan
    from data_pipeline.tokens.shards import open_shards
    from pretrain.engine import Engine
    from pretrain.loop import train
    from pretrain.objective import LanguageModel
    from stemma.core.progress import Event, Progress
    from tests.pretrain.helpers import parameter_hash

    def attempt(
        folder: Path,
        stop_after: int | None = None,
        objective_class: type[LanguageModel] = LanguageModel,
        init: Path | None = None,
        lengths: tuple[int, ...] = (32,),
        **training: Any,
    ) -> dict[str, Any]:
        job = make_job(folder, init, **training)
        engine = Engine.build(job.model, job.training, job.execution)
        events: list[Event] = []
        try:
            shards = open_shards([inputs["tokens"].path], "train")
            plan = Plan.load(make_plan(LOOP_STEPS, lengths).path)
            objective = objective_class(engine, plan, shards, job.training, {})
            steps = iter(range(1, LOOP_STEPS + 1))
            stop = lambda: next(steps) == stop_after  # noqa: E731
            summary = train(job, engine, objective, Progress("stem", [events.append]), stop)
            return {"summary": summary, "events": events, "hash": parameter_hash(engine)}
        except Exception as error:
            error.events = events  # type: ignore[attr-defined]
            raise
        finally:
            engine.close()

    return attempt
