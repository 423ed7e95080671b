"""Plans over 10^12 tokens and 100 sources, checked by arithmetic at random places: no stream is walked."""

from fractions import Fraction
from itertools import pairwise
from math import lcm

from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig
from data_pipeline.curriculum.build import build_plan
from data_pipeline.curriculum.cursor import Reader, Universe
from data_pipeline.curriculum.plan import Plan, PlannedSource
from pretrain.batch import share

CHUNK = 131_072
RANKS = range(1, 65)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Two phases of together over 10^12 tokens over 100 sources of very different size and weight."""
    sizes = draw(st.lists(st.integers(10**8, 2 * 10**11), min_size=100, max_size=100))
    weights = draw(st.lists(st.floats(0.01, 100), min_size=100, max_size=100))
    names = [f"s{number:02d}" for number in range(100)]
    sources = {
        name: PlannedSource(Universe(name, size, CHUNK, 7), "web", "tokens", "f" * 64)
        for name, size in zip(names, sizes)
    }
    mix = dict(zip(names, weights))
    phases = (
        PhaseConfig(name="short", tokens=10**12, sequence_length=8192, weights=mix),
        PhaseConfig(name="long", tokens=10**11, sequence_length=131_072, weights=mix),
    )
    curriculum = CurriculumConfig(
        phases=phases,
        max_epochs=10**6,
        block=draw(st.sampled_from([64, 1000])),
        window=draw(st.integers(1, 100)),
        seed=draw(st.integers(0, 2**32)),
    )
    return build_plan(PlanConfig(curriculum=curriculum, global_batch_size=512), sources)


def sample_of(data: st.DataObject, plan: Plan) -> int:
    return data.draw(st.integers(0, plan.total_samples - 1), label="sample")


@settings(max_examples=15, deadline=None)
@given(plan=plans())
def test_counts_are_exact(plan: Plan) -> None:
    for phase in plan.phases:
        assert sum(phase.counts.values()) == phase.samples
        weights = {name: Fraction(str(weight)) for name, weight in phase.weights.items()}
        for name, weight in weights.items():
            exact = phase.samples * weight / sum(weights.values())
            assert abs(phase.counts.get(name, 0) - exact) < 1
    assert plan.total_tokens > 10**12


@settings(max_examples=15, deadline=None)
@given(plan=plans(), data=st.data())
def test_every_sample_is_the_next_one_of_its_source(plan: Plan, data: st.DataObject) -> None:
    """So the stream is a bijection: sample g is number counts(g)[source] of its source, and back."""
    for _ in range(20):
        sample = sample_of(data, plan)
        phase = plan.phases[plan.phase_of(sample)]
        index, number = phase.layout.locate(sample - phase.first_sample)
        before, after = (phase.layout.counts_before(sample - phase.first_sample + step) for step in (0, 1))
        assert before[index] == number
        assert [b - a for a, b in zip(before, after)] == [int(k == index) for k in range(len(before))]
        assert phase.layout.position(index, number) == sample - phase.first_sample
        assert sum(count.samples for count in plan.counts(sample).counts.values()) == sample


@settings(max_examples=15, deadline=None)
@given(plan=plans(), data=st.data())
def test_nothing_is_read_again_before_its_epoch_ends(plan: Plan, data: st.DataObject) -> None:
    for _ in range(3):
        sample = sample_of(data, plan)
        at = plan.locate(sample)
        position = at.start_token + 1 + data.draw(st.integers(0, at.sequence_length - 2), label="position")
        readers = plan.samples_reading(at.source, position, position + 1)
        assert [other for other in readers if plan.locate(other).epoch == at.epoch] == [sample]
        # and nothing is left out: an epoch that has ended was read by some sample, or is stated as waste
        epochs = {plan.locate(other).epoch for other in readers}
        missed = set(range(max(epochs))) - epochs
        assert len(missed) <= sum(phase.waste.get(at.source, 0) for phase in plan.phases)


@settings(max_examples=15, deadline=None)
@given(plan=plans())
def test_read_wasted_and_unread_positions_add_up_to_the_epochs_begun(plan: Plan) -> None:
    for name, cursor in plan.cursors().items():
        universe = plan.sources[name].universe
        read = sum(phase.counts.get(name, 0) * phase.sequence_length for phase in plan.phases)
        waste = sum(phase.waste.get(name, 0) for phase in plan.phases)
        unread = Reader(universe, cursor, 1, 1).unread
        assert read + waste + unread == (cursor.epoch + 1) * universe.positions


@settings(max_examples=5, deadline=None)
@given(plan=plans(), data=st.data())
def test_every_data_parallel_size_reads_the_same_stream(plan: Plan, data: st.DataObject) -> None:
    """Ranks take equal runs of each batch; on any number of them the union of a step is the same samples."""
    batch = lcm(*RANKS)  # divisible by every size; only ends of runs are looked at
    first = data.draw(st.integers(0, plan.phases[0].samples // 2))
    for ranks in RANKS:
        runs = [share(batch, rank, ranks) for rank in range(ranks)]
        assert (runs[0].start, runs[-1].stop) == (0, batch)
        assert all(before.stop == after.start for before, after in pairwise(runs))
    for ranks in (1, 3, 64):
        rows = 64 * 3
        seen = [plan.locate(first + row) for rank in range(ranks) for row in share(rows, rank, ranks)]
        assert seen == [plan.locate(first + row) for row in range(rows)]


@settings(max_examples=15, deadline=None)
@given(plan=plans(), data=st.data())
def test_a_batch_is_located_as_its_samples_are(plan: Plan, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 700), label="count")
    border = plan.phases[1].first_sample
    for first in (sample_of(data, plan), border - count // 2, 0, plan.total_samples - count):
        first = min(first, plan.total_samples - count)
        one_by_one = [plan.locate(sample) for sample in range(first, first + count)]
        assert plan.locate_range(first, count) == one_by_one
