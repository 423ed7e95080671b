import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.padded import padded_batch
from pretrain.batch import Sample

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def samples(lengths: list[int]) -> list[Sample]:
    rng = np.random.default_rng(0)
    found = []
    for place, length in enumerate(lengths):
        ids = rng.integers(1, 99, length + 1)
        mask = (np.arange(length) >= length // 2).astype(np.float32)
        extra = {"advantages": np.full(length, place + 1, dtype=np.float32)}
        found.append(
            Sample("even" if place % 2 == 0 else "odd", ids[:-1], ids[1:], mask, {"place": place}, extra)
        )
    return found


@given(LENGTHS, st.integers(1, 5), st.integers(1, 3))
def test_every_row_is_in_exactly_one_ranks_batch_and_padding_carries_nothing(
    lengths: list[int], size: int, ranks: int
) -> None:
    rows = samples(lengths)
    batches = [padded_batch(rows, size, rank, ranks) for rank in range(ranks)]
    assert len({batch.sha256 for batch in batches}) == 1
    assert len({len(batch.micro) for batch in batches}) == 1
    seen = []
    for batch in batches:
        for micro in batch.micro:
            for row in range(len(micro.tokens)):
                length = int((micro.extra["advantages"][row] != 0).sum())
                assert not micro.loss_mask[row, length:].any()
                assert not micro.tokens[row, length:].any()
                if micro.loss_mask[row].any():
                    seen.append(micro.tokens[row, :length].tolist())
    assert sorted(seen) == sorted(row.tokens.tolist() for row in rows)
    supervised = sum(int(row.loss_mask.sum()) for row in rows)
    assert batches[0].denominator == supervised
    assert sum(float(micro.loss_mask.sum()) for batch in batches for micro in batch.micro) == supervised
    for parity, source in enumerate(("even", "odd")):
        mine = rows[parity::2]
        counted = (
            len(mine),
            sum(len(row.tokens) for row in mine),
            sum(int(row.loss_mask.sum()) for row in mine),
        )
        assert batches[0].counts.get(source, (0, 0, 0)) == counted


@pytest.mark.parametrize("field", ["tokens", "loss_mask", "extra"])
def test_the_hash_sees_everything_the_loss_sees(field: str) -> None:
    before, after = samples([5, 7]), samples([5, 7])
    changed = after[1].extra["advantages"] if field == "extra" else getattr(after[1], field)
    changed[3] += 1
    assert padded_batch(before, 2, 0, 1).sha256 != padded_batch(after, 2, 0, 1).sha256
    assert padded_batch(before, 2, 0, 1).sha256 == padded_batch(samples([5, 7]), 1, 0, 1).sha256
