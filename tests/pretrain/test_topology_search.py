"""Which way of sharing is taken: laws any estimate of time must keep, and sums done by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config import ModelConfig
from pretrain.costs import DEVICES, memory, training_flops
from pretrain.topology import Topology
from pretrain.topology_search import (
    GPUS_PER_NODE,
    REACHED,
    ROOM,
    Work,
    estimate,
    feasible,
    topologies,
)
from tests.pretrain.helpers import REFERENCE

H100 = DEVICES["h100"]
WORK = Work(length=8192, sequences=1024, rows=1, steps=10)


def seconds(topology: Topology, work: Work = WORK, recompute: bool = False) -> float:
    return estimate(REFERENCE, "bf16", [work], topology, recompute, H100, mfu=0.4).seconds


def test_one_gpu_does_nothing_but_the_models_arithmetic() -> None:
    found = estimate(REFERENCE, "bf16", [WORK], Topology(), False, H100, mfu=0.4)
    flops = training_flops(REFERENCE, 8192) * 8192 * 1024 * 10
    assert found.seconds == found.useful == pytest.approx(flops / (H100.flops * 0.4))
    assert seconds(Topology(), recompute=True) == pytest.approx(4 / 3 * found.seconds)


def test_replicas_share_the_work_and_add_their_gradients() -> None:
    moved = REFERENCE.parameters * (2 + 4) * 63 / 64 / (H100.network * REACHED)
    assert seconds(Topology(data=64)) == pytest.approx(seconds(Topology()) / 64 + 10 * moved)


def test_a_pipeline_waits_for_its_bubble() -> None:
    piped = estimate(REFERENCE, "bf16", [WORK], Topology(pipeline=4), False, H100, mfu=0.4)
    assert piped.useful == pytest.approx(seconds(Topology()) / 4)
    assert piped.seconds > piped.useful * (1024 + 3) / 1024


def test_crossing_machines_costs_more() -> None:
    inside, across = Topology(context=8, data=8), Topology(context=16, data=4)
    work = Work(131_072, 64, 1, 1)
    ideal = seconds(Topology(), work) / 64
    assert seconds(across, work) - ideal > 4 * (seconds(inside, work) - ideal)


@pytest.mark.parametrize("gpus", [1, 6, 8, 64])
def test_every_way_to_share_is_tried_once_and_divides(gpus: int) -> None:
    found = list(topologies(REFERENCE, gpus))
    assert len(found) == len(set(found)) > 0
    assert all(topology.ranks == gpus and topology.tensor <= GPUS_PER_NODE for topology in found)
    assert not any(problem for topology in found for problem in topology.problems(REFERENCE))
    assert Topology(data=gpus) in found


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([8, 16, 32]),
    st.sampled_from([8_192, 32_768, 131_072]),
    st.sampled_from([16, 64]),
)
def test_what_is_chosen_fits_and_nothing_that_fits_is_faster(gpus: int, length: int, sequences: int) -> None:
    work = [Work(length, sequences, 1, 5)]
    every = [
        estimate(REFERENCE, "bf16", work, topology, recompute, H100, 0.4)
        for topology in topologies(REFERENCE, gpus)
        for recompute in (False, True)
    ]
    fits = feasible(every, work, H100)
    for option in fits:
        held = memory(REFERENCE, option.topology, "bf16", length, 1, option.recompute)
        assert held.total <= ROOM * H100.memory
        assert sequences % option.topology.data == 0
    left_out = [option for option in every if option not in fits]
    assert all(
        option.memory.total > ROOM * H100.memory or sequences % option.topology.data for option in left_out
    )
    assert [option.seconds for option in fits] == sorted(option.seconds for option in fits)


def test_of_equally_fast_ways_the_simplest_is_taken() -> None:
    tiny = ModelConfig(
        vocab_size=512,
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        ffn_hidden_size=128,
        q_lora_rank=32,
        kv_lora_rank=16,
    )
    work = [Work(64, 8, 1, 1)]
    every = [
        estimate(tiny, "bf16", work, topology, recompute, H100, 0.4)
        for topology in topologies(tiny, 1)
        for recompute in (True, False)
    ]
    assert not feasible(every, work, H100)[0].recompute
