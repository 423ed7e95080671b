from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.curriculum.plan import Plan
from data_pipeline.tokens.shards import open_shards
from pretrain.batch import Sample, batch_digest, micro_batches, share
from pretrain.config import TrainingConfig
from pretrain.engine import Engine
from pretrain.objective import LanguageModel
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from stemma.core.ledger import Ledger, compare


@pytest.fixture
def make_objective(
    engine: Engine, inputs: dict[str, Artifact], make_plan: Callable[..., Artifact], training: TrainingConfig
):
    def make(steps: int = 8, lengths: tuple[int, ...] = (32,), theta: dict[int, float] | None = None):
        shards = open_shards([inputs["tokens"].path], "train")
        return LanguageModel(engine, Plan.load(make_plan(steps, lengths).path), shards, training, theta or {})

    return make


def test_batches_hold_what_the_plan_says_and_the_ledger_agrees(
    engine: Engine, inputs: dict[str, Artifact], make_objective: Callable[..., LanguageModel]
) -> None:
    objective = make_objective()
    shards = open_shards([inputs["tokens"].path], "train")
    realized = Ledger(objective.planned(0).domains)
    for step in range(objective.total_steps):
        batch = objective.batch(step, engine)
        for source, counts in batch.counts.items():
            realized.record(source, *counts)
        compare(objective.planned(step + 1), realized)
        tokens = torch.cat([micro.tokens for micro in batch.micro])
        labels = torch.cat([micro.labels for micro in batch.micro])
        assert batch.denominator == tokens.numel() == 128
        for row, origin in enumerate(batch.pedigree):
            ids = shards[origin["source"]].tokens[origin["start_token"] :][:33].tolist()
            assert tokens[row].tolist() == ids[:-1]
            assert labels[row].tolist() == ids[1:]


def test_a_batch_is_a_function_of_its_step(
    engine: Engine, make_objective: Callable[..., LanguageModel]
) -> None:
    first, second = make_objective(), make_objective()
    hashes = [first.batch(step, engine).sha256 for step in range(8)]
    assert [second.batch(step, engine).sha256 for step in reversed(range(8))] == hashes[::-1]
    assert len(set(hashes)) == 8


def test_longer_phases_keep_the_tokens_per_step_and_change_the_rotary_base(
    engine: Engine, make_objective: Callable[..., LanguageModel]
) -> None:
    objective = make_objective(6, (32, 64, 128), {64: 5e4, 128: 9e4})
    seen = []
    for step in (0, 1, 2, 3, 4, 5, 0):
        micro = objective.batch(step, engine).micro
        seen.append((len(micro), *micro[0].tokens.shape, engine.rope_theta))
    short, middle, long = (2, 2, 32, 1e4), (2, 1, 64, 5e4), (1, 1, 128, 9e4)
    assert seen == [short, short, middle, middle, long, long, short]
    objective.batch(5, engine)
    state = objective.state_dict()
    engine.set_rope_theta(1e4)
    fresh = make_objective(6, (32, 64, 128), {64: 5e4, 128: 9e4})
    fresh.load_state_dict(state)
    assert engine.rope_theta == 9e4


def test_losses_by_source_add_up_to_the_loss(
    engine: Engine, make_objective: Callable[..., LanguageModel]
) -> None:
    objective = make_objective()
    batch = objective.batch(0, engine)
    result = engine.train_step(batch, objective.loss, 1e-3)
    assert sum(result.metrics.values()) == pytest.approx(result.loss, rel=1e-5)
    assert {name.removeprefix("loss/") for name, value in result.metrics.items() if value} == set(
        batch.counts
    )


def test_a_plan_for_other_sources_is_refused(
    engine: Engine, inputs: dict[str, Artifact], make_plan: Callable[..., Artifact], training: TrainingConfig
) -> None:
    shards = open_shards([inputs["tokens"].path], "train")
    del shards["json"]
    with pytest.raises(StemmaError, match="json"):
        LanguageModel(engine, Plan.load(make_plan().path), shards, training, {})


def samples(count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 100, (count, 5))
    return [
        Sample("a" if at % 3 else "b", row[:-1], row[1:], (row[1:] % 2).astype("f4"))
        for at, row in enumerate(rows)
    ]


@given(each=st.integers(1, 4), ranks=st.integers(1, 4), micro=st.integers(1, 3))
def test_ranks_divide_a_batch_without_changing_it(each: int, ranks: int, micro: int) -> None:
    rows = samples(each * ranks)
    parts = [[rows[at] for at in share(len(rows), rank, ranks)] for rank in range(ranks)]
    assert {len(part) for part in parts} == {each}
    joined = [batch for part in parts for batch in micro_batches(part, micro)]
    assert all(1 <= len(batch.tokens) <= micro for batch in joined)
    for name in ("tokens", "labels", "loss_mask"):
        expected = np.stack([getattr(row, name) for row in rows])
        assert torch.cat([getattr(batch, name) for batch in joined]).tolist() == expected.tolist()
    assert [source for batch in joined for source in batch.sources] == [row.source for row in rows]


def test_the_hash_sees_tokens_labels_masks_extras_and_order() -> None:
    row = samples(1)[0]
    changed = [
        Sample("a", row.tokens + 1, row.labels, row.loss_mask),
        Sample("a", row.tokens, row.labels + 1, row.loss_mask),
        Sample("a", row.tokens, row.labels, 1 - row.loss_mask),
        Sample("a", row.tokens, row.labels, row.loss_mask, extra={"advantages": row.loss_mask}),
    ]
    assert len({row.digest(), *(other.digest() for other in changed)}) == 5
    assert batch_digest([b"1", b"2"]) != batch_digest([b"2", b"1"])


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="5 sequences cannot be split over 2"):
        share(5, 0, 2)
    assert [batch.tokens.shape[0] for batch in micro_batches(samples(5), 2)] == [2, 2, 1]
