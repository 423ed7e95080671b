import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.tokens.shards import TokenShard, write_index
from pretrain.engine import Engine
from pretrain.launch import Job
from pretrain.validation import Validator, windows

VOCABULARY, END = 272, 256


def shard(folder: Path, size: int) -> TokenShard:
    """A source of one document: 0, 1, 2, ..."""
    np.arange(size, dtype=np.uint16).tofile(folder / f"{size}.bin")
    write_index(folder / f"{size}.idx", [size], np.uint16)
    return TokenShard(folder / str(size))


@given(sizes=st.lists(st.integers(2, 500), min_size=1, max_size=4), length=st.integers(1, 40))
def test_a_large_quota_predicts_every_token_but_the_first_exactly_once(
    sizes: list[int], length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    shards = {f"s{index}": shard(folder, size) for index, size in enumerate(sizes)}
    found = windows(shards, length, quota=10**6)
    for source, one in shards.items():
        mine = [sample for sample in found if sample.source == source]
        predicted = np.concatenate([sample.labels[sample.loss_mask > 0] for sample in mine])
        assert predicted.tolist() == one.tokens[1:].tolist()
        for sample in mine:
            real = sample.loss_mask > 0
            assert (sample.tokens[real] + 1 == sample.labels[real]).all()


@given(size=st.integers(2, 3000), length=st.integers(1, 64), quota=st.integers(1, 2000))
def test_a_quota_is_kept_to_within_a_window(
    size: int, length: int, quota: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = windows({"a": shard(tmp_path_factory.mktemp("shard"), size)}, length, quota)
    positions = sum(int(sample.loss_mask.sum()) for sample in found)
    assert positions <= max(quota + length, length)
    assert positions >= min(quota, size - 1) - 2 * length
    starts = [sample.pedigree["start"] for sample in found]
    assert len(set(starts)) == len(starts)


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_per_token(
    engine: Engine, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    """All weights zero: every token costs log2(vocabulary) bits; all but document ends are one byte."""
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.zero_()
    validator = Validator(make_job(tmp_path), engine)
    measured = validator.measure()
    assert sorted(measured) == ["code", "web"]
    for domain, samples in validator.windows.items():
        labels = np.concatenate([sample.labels[sample.loss_mask > 0] for sample in samples])
        expected = math.log2(VOCABULARY) * len(labels) / int((labels != END).sum())
        assert measured[domain] == pytest.approx(expected, rel=1e-6)
        assert any((sample.loss_mask == 0).any() for sample in samples) == (len(labels) % 32 != 0)
