"""Documents that share a row: logits and gradients as if each stood alone, by transformers' own model."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import YoutuForCausalLM

from data_pipeline.config import PlanConfig
from data_pipeline.curriculum.build import build_plan
from data_pipeline.curriculum.cursor import Universe
from data_pipeline.curriculum.plan import Plan, PlannedSource
from data_pipeline.tokens.shards import TokenShard, write_index
from pretrain import convert
from pretrain.batch import MicroBatch, Sample, StepBatch, micro_batches
from pretrain.config import TrainingConfig
from pretrain.engine import Engine
from pretrain.objective import LanguageModel
from tests.pretrain.helpers import SEQ, VOCAB, build, rows, train

STARTS = [0, 5, 6, SEQ, SEQ + 17, 2 * SEQ]  # two rows: documents of 5, 1 and 18, and of 17 and 7 positions


@pytest.fixture
def trained() -> Iterator[Engine]:
    engine = build()
    train(engine, 0, 2)  # norms are no longer ones
    yield engine
    engine.close()


def test_logits_and_gradients_are_those_of_the_documents_alone(trained: Engine) -> None:
    """Positions do not begin anew at a document: rotary position is relative, and this holds all the same."""
    tokens, labels, _ = rows(4, count=2)
    reference = YoutuForCausalLM(convert.hf_config(trained.model))
    trained.sync_hf(reference)
    documents = list(pairwise(STARTS))
    expected, total = [], torch.zeros(())
    for start, stop in documents:
        logits = reference(tokens.flatten()[None, start:stop]).logits[0]
        expected.append(logits.detach())
        total = total + torch.nn.functional.cross_entropy(
            logits, labels.flatten()[start:stop], reduction="sum"
        )
    seen: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, micro: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen.append(logits.detach().flatten(0, 1))
        return trained.token_loss(logits, micro.labels).sum(), {}

    micro = MicroBatch(
        tokens,
        labels,
        torch.ones_like(tokens, dtype=torch.float32),
        torch.arange(SEQ).expand(2, SEQ),
        cu_seqlens=torch.tensor(STARTS, dtype=torch.int32),
    )
    denominator = 1e4  # so that no gradient is clipped
    result = trained.train_step(StepBatch([micro], {}, "", denominator), loss, lr=0.0)
    assert (seen[0] - torch.cat(expected)).abs().max() <= 1e-5
    assert result.loss == pytest.approx(total.item() / denominator, rel=1e-6)
    (total / denominator).backward()
    gradients = ((name, parameter.main_grad) for name, parameter in trained.module.named_parameters())
    mine = dict(convert.megatron_to_hf(gradients))
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert mine.keys() >= theirs.keys() - {"lm_head.weight"}
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.fixture
def packed(tmp_path: Path) -> tuple[TokenShard, Plan, list[int]]:
    """A shard of documents of 1 to 40 tokens, whose end token means nothing, and a plan that masks one of its
    phases."""
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    np.random.default_rng(1).integers(0, VOCAB, lengths.sum()).astype(np.uint16).tofile(tmp_path / "s.bin")
    write_index(tmp_path / "s.idx", lengths, np.uint16)
    shard = TokenShard(tmp_path / "s", "web")
    phase = {"tokens": 4 * SEQ * 3, "sequence_length": SEQ, "weights": {"web": 1}}
    config = PlanConfig.model_validate(
        {
            "curriculum": {
                "phases": [{"name": "open", **phase}, {"name": "closed", "document_mask": True, **phase}]
            },
            "global_batch_size": 4,
        }
    )
    sources = {"s": PlannedSource(Universe("s", len(shard), SEQ, 0), "web", "tokens", "")}
    return shard, build_plan(config, sources), lengths.tolist()


def test_a_phase_with_document_mask_marks_the_documents_of_the_index(
    trained: Engine, packed: tuple[TokenShard, Plan, list[int]]
) -> None:
    shard, plan, lengths = packed
    training = TrainingConfig(global_batch_size=4, micro_batch_size=2, schedule={"peak_lr": 1e-3})
    objective = LanguageModel(trained, plan, {"s": shard}, training, {})
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for step in range(plan.total_steps):
        batch = objective.batch(step, trained)
        for number, micro in enumerate(batch.micro):
            if not plan.phases[plan.batch(step).phase].document_mask:
                assert micro.cu_seqlens is None
                continue
            starts = []
            for row in range(2):
                at = batch.pedigree[2 * number + row]["start_token"]
                inside = owner[at : at + SEQ]
                starts += [row * SEQ, *(row * SEQ + np.flatnonzero(np.diff(inside)) + 1).tolist()]
            assert micro.cu_seqlens.tolist() == [*starts, 2 * SEQ]
            assert micro.cu_seqlens.dtype == torch.int32
        assert np.isfinite(trained.train_step(batch, objective.loss, 1e-3).loss)


def test_where_documents_are_is_part_of_what_a_batch_s_hash_covers() -> None:
    row, mask = np.arange(8), np.ones(8, np.float32)
    marks = [None, np.zeros(8, np.int64), np.repeat([0, 1], 4)]
    digests = {Sample("s", row, row, mask, documents=mark).digest() for mark in marks}
    assert len(digests) == 3
    mixed = [Sample("s", row, row, mask, documents=mark) for mark in marks[:2]]
    with pytest.raises(ValueError, match="rows with documents and rows without"):
        micro_batches(mixed, 2)
    assert [micro.cu_seqlens is None for micro in micro_batches(mixed, 1)] == [True, False]
