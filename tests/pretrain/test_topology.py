"""How ranks may share a run, and what is refused before anything starts."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.batch import MicroBatch
from pretrain.context import held, own_part, padded
from pretrain.topology import Topology, TopologyError, run_problems
from stemma.core.errors import ProfileError
from stemma.core.stage import Execution
from stemma.profile import load_profile
from tests.pretrain.helpers import REFERENCE, TINY

SIZES = st.sampled_from([2, 3, 4, 8])


@given(SIZES, st.integers(1, 9))
def test_context_ranks_hold_every_position_once_and_have_the_same_work(size: int, chunk: int) -> None:
    length = 2 * size * chunk
    parts = [held(length, rank, size) for rank in range(size)]
    assert torch.cat(parts).sort().values.tolist() == list(range(length))
    work = {int((part + 1).sum()) for part in parts}  # a position attends to itself and those before it
    assert len(work) == 1


@given(SIZES, st.sampled_from([1, 2, 4]), st.booleans(), st.integers(1, 40))
def test_rows_of_any_length_are_padded_and_cut(size: int, tensor: int, sequence: bool, length: int) -> None:
    """Every rank gets the same number of positions, which its tensor-parallel ranks can share."""
    rows = torch.arange(2 * length).view(2, length)
    bounds = sorted({0, length // 2, length, length + length // 3, 2 * length})
    starts = torch.tensor(bounds, dtype=torch.int32)
    micro = MicroBatch(rows, rows + 1, torch.ones(2, length), rows, ["a", "b"], {"x": rows * 0.5}, starts)
    topology = Topology(tensor=tensor, context=size, sequence_parallel=sequence and tensor > 1)
    longer = padded(micro, topology.length_multiple)
    more = longer.tokens.shape[1] - length
    assert 0 <= more < topology.length_multiple
    assert torch.equal(longer.tokens[:, :length], rows)
    assert longer.loss_mask.sum() == 2 * length
    assert longer.cu_seqlens is not None
    assert longer.cu_seqlens.tolist() == [at + more * (at // length) for at in bounds]
    parts = [own_part(longer, rank, size) for rank in range(size)]
    shares = tensor if topology.sequence_parallel else 1
    assert {part.tokens.shape[1] % shares for part in parts} == {0}
    places = torch.cat([held(length + more, rank, size) for rank in range(size)])
    for name in ("tokens", "labels", "loss_mask", "position_ids"):
        together = torch.cat([getattr(part, name) for part in parts], 1)
        assert torch.equal(together[:, places.argsort()], getattr(longer, name)), name
    assert all(torch.equal(part.extra["x"], part.tokens * 0.5) for part in parts)
    assert all(part.cu_seqlens is longer.cu_seqlens and part.sources == ["a", "b"] for part in parts)


def test_every_size_that_does_not_divide_is_named() -> None:
    with pytest.raises(TopologyError, match=r"(?s)heads = 16 .* 3 tensor.*num_layers = 32 .* 5 "):
        Topology(tensor=3, pipeline=5).check(REFERENCE)
    with pytest.raises(TopologyError, match=r"sequence_parallel .* tensor_parallel is 1"):
        Topology(sequence_parallel=True).check(TINY)
    Topology(tensor=8, pipeline=4, context=16, data=3, sequence_parallel=True).check(REFERENCE)


def test_a_run_that_cannot_be_spread_is_refused() -> None:
    three = Execution(data_parallel=3, nodes=2)
    problems = list(run_problems(three, TINY, {"curriculum.stem.phases.a": 4, "curriculum.stem.phases.b": 6}))
    assert [problem.split(":")[0] for problem in problems] == [
        "execution",
        "execution.rendezvous is empty; with nodes above 1, give the first machine's host",
        "curriculum.stem.phases.a",
    ]
    fine = Execution(data_parallel=2, nodes=2, rendezvous="first:29500")
    assert list(run_problems(fine, TINY, {"curriculum.stem.phases.a": 4})) == []


def test_a_profile_names_all_that_ranks_cannot_share_and_needs_no_torch() -> None:
    given = {"tensor_parallel": 5, "data_parallel": 7, "pipeline_parallel": 11, "nodes": 2}
    with pytest.raises(ProfileError) as caught:
        load_profile("nano", [f"execution.{name}={value}" for name, value in given.items()])
    message = str(caught.value)
    for part in ("5 tensor-parallel", "11 pipeline-parallel", "nodes 2", "rendezvous", "data_parallel 7"):
        assert part in message, part
    program = "import sys, stemma.profile; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
