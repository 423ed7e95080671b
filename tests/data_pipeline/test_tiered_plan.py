"""From scored documents to a plan: tiers packed, upsampled, planned, read back, each sample in its tier."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.config import PlanConfig, TokensConfig
from data_pipeline.curriculum.caps import PlanError
from data_pipeline.curriculum.plan import Plan
from data_pipeline.curriculum.stage import PlanStage
from data_pipeline.tokens.shards import open_shards
from data_pipeline.tokens.stage import TokensStage
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.stage import Execution, Stage, Workspace, execute

SCORES = (0.1, 0.5, 0.95)  # of documents in turn; no document is in tier 2


class Corpus(Stage):
    """120 documents of numbers, each with its own."""

    kind = "corpus"

    def run(self, work: Workspace) -> dict[str, int]:
        folder = work.path / "documents" / "sums"
        folder.mkdir(parents=True)
        rows = {
            "id": [f"{number:020d}" for number in range(120)],
            "text": [f"{number} " * (20 + 7 * number % 90) for number in range(120)],
            "split": ["train"] * 120,
        }
        rows |= {name: [name] * 120 for name in ("domain", "language", "origin", "cluster")}
        table = pa.table({**rows, "decisions": ["{}"] * 120})
        pq.write_table(table, folder / "00000.parquet", row_group_size=50)
        return {}


class Letters(Stage):
    """A tokenizer whose tokens are bytes."""

    kind = "tokenizer"

    def run(self, work: Workspace) -> dict[str, int]:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        from tokenizer.load import byte_characters

        characters = {character: byte for byte, character in enumerate(byte_characters())}
        tokenizer = Tokenizer(models.BPE(characters, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end_of_text|>")
        fast.save_pretrained(str(work.path / "hf"))
        return {}


class Quality(Stage):
    kind = "quality"

    def run(self, work: Workspace) -> dict[str, int]:
        (work.path / "scores").mkdir()
        quality = pa.array([SCORES[number % 3] for number in range(120)], pa.float32())
        table = pa.table({"id": [f"{number:020d}" for number in range(120)], "quality": quality})
        pq.write_table(table, work.path / "scores" / "sums.parquet")
        return {}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    store = Store(tmp_path_factory.mktemp("tiers"))
    inputs = {
        "corpus": execute(Corpus("corpus", Config(), {}), store),
        "tokenizer": execute(Letters("tokenizer", Config(), {}), store),
        "quality": execute(Quality("quality", Config(), {}), store),
    }
    config = TokensConfig(sequence_chunk=256, packing="best_fit", packing_length=64, tiers=(0.3, 0.7, 0.9))
    return execute(TokensStage("tokens", config, inputs), store, Execution(workers=1))


def plan_config(**phase: object) -> PlanConfig:
    whole = {"name": "all", "tokens": 12_800, "sequence_length": 64, **phase}
    return PlanConfig.model_validate(
        {"curriculum": {"phases": [whole], "block": 8, "window": 4}, "global_batch_size": 4}
    )


def test_every_sample_reads_its_own_tier_and_counts_are_exact(tokens: Artifact, tmp_path: Path) -> None:
    config = plan_config(weights={"domain": 1}, upsample={"t3": 2, "t1": 0}, max_epochs={"t3": 8})
    plan = Plan.load(execute(PlanStage("plan", config, {"tokens": tokens}), Store(tmp_path)).path)
    assert {name: (source.parent, source.tier) for name, source in plan.sources.items()} == {
        f"sums.t{tier}": ("sums", tier) for tier in range(4)
    }
    counts = plan.phases[0].counts
    size = {name: source.universe.positions for name, source in plan.sources.items()}
    assert counts.keys() == {"sums.t0", "sums.t3"}
    for name, factor in (("sums.t0", 1), ("sums.t3", 2)):
        share = 200 * factor * size[name] / (size["sums.t0"] + 2 * size["sums.t3"])
        assert abs(counts[name] - share) < 1
    shards = open_shards([tokens.path], "train")
    assert shards.keys() == {"sums.t0", "sums.t1", "sums.t3"}  # the empty tier has nothing to open
    for sample in range(plan.total_samples):
        at = plan.locate(sample)
        shard = shards[at.source]
        pieces = shard.document_at(at.start_token) + np.unique(shard.documents(at.start_token, 64))
        for piece in pieces.tolist():
            score = SCORES[int(shard.describe(piece)["id"]) % 3]
            assert at.source == ("sums.t0" if score < 0.3 else "sums.t3")


def test_an_empty_tier_cannot_be_asked_for(tokens: Artifact, tmp_path: Path) -> None:
    config = plan_config(weights={"sums": 9, "sums.t2": 1})
    with pytest.raises(PlanError, match=r"sums\.t2: asked 20 .* available 0 .* 0 tokens x 4 epochs"):
        execute(PlanStage("plan", config, {"tokens": tokens}), Store(tmp_path))
