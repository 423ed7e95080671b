"""Plans: exact counts, a stream that is a function of the sample, cursors that go on, clear refusals."""

import json
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig, PlanEdit
from data_pipeline.curriculum.build import PlanError, build_plan, edit_plan, leave_out, source_weights
from data_pipeline.curriculum.caps import Caps
from data_pipeline.curriculum.cursor import Reader, Universe
from data_pipeline.curriculum.plan import Plan, PlannedSource, plan_from_json, reading
from data_pipeline.curriculum.stage import PlanStage
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.errors import DamagedError
from stemma.core.files import write_json
from stemma.core.stage import Stage, Workspace, execute

Legs = list[tuple[int, int, dict[str, float]]]  # per phase: sequence length, steps, weights
DOMAINS = {"wiki": "web", "news": "web", "maths": "stem", "python": "code"}
SIZES = {"wiki": 6_000, "news": 9_001, "maths": 700, "python": 1_500}


def sources(sizes: dict[str, int] = SIZES, chunk: int = 64) -> dict[str, PlannedSource]:
    return {
        name: PlannedSource(Universe(name, size, chunk, 7), DOMAINS.get(name, "web"), "tokens", "f" * 64)
        for name, size in sizes.items()
    }


def phase(name: str = "main", tokens: int = 6_400, length: int = 16, **fields: Any) -> PhaseConfig:
    return PhaseConfig(
        **{"name": name, "tokens": tokens, "sequence_length": length, "weights": {"web": 1.0}, **fields}
    )


def config(*phases: PhaseConfig, batch: int = 8, **fields: Any) -> PlanConfig:
    curriculum = CurriculumConfig(**{"phases": phases, "block": 16, "window": 4, "max_epochs": 50, **fields})
    return PlanConfig(curriculum=curriculum, global_batch_size=batch)


WEIGHTS = st.dictionaries(st.sampled_from(["wiki", "web", "stem", "python"]), st.floats(0.01, 5), min_size=1)
PHASES = st.lists(
    st.tuples(st.sampled_from([8, 16, 32, 64]), st.integers(1, 12), WEIGHTS), min_size=1, max_size=4
)


def make(legs: Legs) -> PlanConfig:
    """Phases of so many steps of 128 tokens."""
    batch = 128 // legs[0][0]
    made = [phase(f"p{n}", 128 * steps, length, weights=w) for n, (length, steps, w) in enumerate(legs)]
    return config(*made, batch=batch)


def places(plan: Plan, upto: int | None = None) -> list[tuple[str, int, int]]:
    """Every position the first samples read: (source, epoch, token)."""
    found = []
    for sample in range(plan.total_samples if upto is None else upto):
        at = plan.locate(sample)
        found += [(at.source, at.epoch, at.start_token + i) for i in range(at.sequence_length)]
    return found


@settings(max_examples=60)
@given(legs=PHASES)
def test_counts_by_arithmetic_equal_a_walk_at_every_sample(
    legs: Legs,
) -> None:
    plan = build_plan(make(legs), sources())
    samples: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for sample in range(plan.total_samples + 1):
        ledger = plan.counts(sample)
        assert {name: (c.samples, c.tokens, c.supervised) for name, c in ledger.counts.items()} == {
            name: (samples[name], tokens[name], tokens[name]) for name in samples
        }
        if sample < plan.total_samples:
            at = plan.locate(sample)
            assert at.domain == ledger.domains[at.source]
            samples[at.source] += 1
            tokens[at.source] += at.sequence_length
    assert plan.planned(plan.total_steps) == plan.counts(plan.total_samples)


@settings(max_examples=60)
@given(legs=PHASES)
def test_phase_counts_are_the_apportioned_weights(legs: Legs) -> None:
    plan = build_plan(make(legs), sources())
    for index, (length, steps, weights) in enumerate(legs):
        made = plan.phases[index]
        assert (made.sequence_length, made.steps, made.tokens) == (length, steps, 128 * steps)
        wanted = source_weights(phase(weights=weights), sources())
        for name, share in wanted.items():
            assert abs(made.counts.get(name, 0) - made.samples * share / sum(wanted.values())) < 1


@settings(max_examples=60)
@given(first=PHASES, second=PHASES, data=st.data())
def test_a_mix_changed_at_any_sample_repeats_nothing_and_loses_nothing(
    first: Legs,
    second: Legs,
    data: st.DataObject,
) -> None:
    """Stop a plan anywhere and go on with another from its cursors."""
    before = build_plan(make(first), sources())
    stop = data.draw(st.integers(0, before.total_samples))
    after = build_plan(make(second), sources(), before.cursors(stop))
    read = places(before, stop) + places(after)
    assert len(set(read)) == len(read)
    for name, cursor in after.cursors().items():
        universe = after.sources[name].universe
        unread = Reader(universe, cursor, 1, 1).unread
        missing = (cursor.epoch + 1) * universe.positions - unread - sum(place[0] == name for place in read)
        stated = sum(made.waste.get(name, 0) for made in after.phases)
        assert missing >= stated >= 0
        if stop == before.total_samples:
            assert missing == stated + sum(made.waste.get(name, 0) for made in before.phases)


@settings(max_examples=60)
@given(first=PHASES, second=PHASES, data=st.data())
def test_an_edit_keeps_the_steps_before_it_and_repeats_and_loses_nothing(
    first: Legs, second: Legs, data: st.DataObject
) -> None:
    wanted = make(first)
    before = build_plan(wanted, sources())
    step = data.draw(st.integers(1, before.total_steps))
    phases = [phase(f"new{n}", 128 * steps, L, weights=w) for n, (L, steps, w) in enumerate(second)]
    after = edit_plan(before, step, phases, wanted)
    stretches = wanted.edited(PlanEdit(at_step=step, phases=tuple(phases))).stretches
    assert [(made.name, made.steps) for made in after.phases] == [(p.name, steps) for p, steps in stretches]
    kept = before.planned(step).counts
    samples = sum(count.samples for count in kept.values())
    assert after.planned(step).counts == kept
    for sample in range(samples):
        assert after.locate(sample) == before.locate(sample)
        assert after.phase_of(sample) == before.phase_of(sample)
    alone = build_plan(make(second), sources(), before.cursors(samples))
    assert after.cursors() == alone.cursors()
    assert [made.counts for made in after.phases[-len(second) :]] == [made.counts for made in alone.phases]
    read = places(after)
    assert len(set(read)) == len(read)
    for name, cursor in after.cursors().items():
        universe = after.sources[name].universe
        unread = Reader(universe, cursor, 1, 1).unread
        waste = sum(made.waste.get(name, 0) for made in after.phases)
        mine = sum(place[0] == name for place in read)
        assert mine + waste + unread == (cursor.epoch + 1) * universe.positions
    for name in sorted({place[0] for place in read}):
        at = next(place[2] for place in read if place[0] == name)
        readers = [s for s in range(after.total_samples) if _reads(after, s, name, at)]
        assert after.samples_reading(name, at, at + 1) == readers
    assert plan_from_json(json.loads(json.dumps(after.to_json())), Path("plan.json")) == after


def _reads(plan: Plan, sample: int, source: str, token: int) -> bool:
    at = plan.locate(sample)
    return at.source == source and at.start_token <= token <= at.start_token + at.sequence_length


def test_edits_of_the_config_are_applied_in_order_and_may_change_the_cap() -> None:
    second = {"at_step": 9, "phases": [phase("late", 128 * 40, weights={"maths": 1})], "max_epochs": 9}
    wanted = config(phase(), max_epochs=1).edited(PlanEdit(at_step=5, phases=(phase("mid", 1_280),)))
    with pytest.raises(PlanError, match=r"'late' asks .*\n  maths: asked 320 .* x 1 epochs"):
        build_plan(wanted.edited(PlanEdit(**{**second, "max_epochs": None})), sources())
    plan = build_plan(wanted.edited(PlanEdit(**second)), sources())
    assert [(made.name, made.steps, made.ended_early) for made in plan.phases] == [
        ("main", 5, True),
        ("mid", 4, True),
        ("late", 40, False),
    ]
    once = build_plan(wanted, sources())
    assert [(made.name, made.steps, made.ended_early) for made in once.phases] == [
        ("main", 5, True),
        ("mid", 10, False),
    ]
    with pytest.raises(ValidationError, match=r"rising steps, each once; they are at .5, 5"):
        wanted.edited(PlanEdit(at_step=5, phases=(phase("again"),)))
    with pytest.raises(ValidationError, match="48 does not divide the 128 tokens"):
        wanted.edited(PlanEdit(at_step=6, phases=(phase("odd", length=48),)))


@pytest.mark.parametrize(
    ("step", "wanted", "message"),
    [
        (0, {"name": "new"}, "cannot be changed at step 0: the stage has 50 steps, give one from 1 to 50"),
        (51, {"name": "new"}, "cannot be changed at step 51"),
        (9, {}, "'main' is there already; give the new one another name"),
        (9, {"name": "new", "length": 48}, "48 does not divide the super-chunk"),
        (9, {"name": "new", "tokens": 100}, "100 tokens in sequences of 16 do not make whole steps of 128"),
        (9, {"name": "new", "weights": {"wkii": 1}}, "weights names 'wkii', which the tokens do not have"),
    ],
)
def test_an_edit_that_cannot_be_carried_out_is_refused(
    step: int, wanted: dict[str, Any], message: str
) -> None:
    plan = build_plan(config(phase()), sources())
    with pytest.raises(PlanError, match=message):
        edit_plan(plan, step, [phase(**wanted)], config(phase()))


@pytest.mark.parametrize("ranks", range(1, 65))
def test_every_data_parallel_size_sees_the_same_stream(ranks: int) -> None:
    """Each rank computes its equal run of every batch's rows alone, from a plan read back from its file."""
    batch = 2 * 3 * 5 * 7 if ranks in (1, 2, 3, 5, 7) else ranks * 2
    tokens = batch * 16 * 2
    plan = build_plan(config(phase(tokens=tokens), batch=batch, max_epochs=10**6), sources())
    copy = plan_from_json(json.loads(json.dumps(plan.to_json())), Path("plan.json"))
    for step in range(plan.total_steps):
        rows = plan.batch(step)
        whole = [plan.locate(rows.first_sample + row) for row in range(rows.samples)]
        share = rows.samples // ranks
        gathered = []
        for rank in range(ranks):
            mine = range(rows.first_sample + rank * share, rows.first_sample + (rank + 1) * share)
            gathered += [copy.locate(sample) for sample in mine]
        assert gathered == whole


def test_a_trillion_tokens_over_a_hundred_sources_is_exact_small_and_quick() -> None:
    sizes = {f"s{n:02d}": 4_000_000_000 + 123_456_789 * n for n in range(100)}
    weights = {name: 1.0 + n / 7 for n, name in enumerate(sizes)}
    plan = build_plan(
        config(
            phase("short", 10**12, 8192, weights=weights),
            phase("long", 10**11, 131_072, weights=weights),
            batch=512,
            block=64,
            window=64,
        ),
        sources(sizes, 131_072),
    )
    assert plan.phases[0].tokens == 10**12 // (512 * 8192) * (512 * 8192)
    wanted = {name: Fraction(str(weight)) for name, weight in weights.items()}
    for name, count in plan.phases[0].counts.items():
        assert abs(count - plan.phases[0].samples * wanted[name] / sum(wanted.values())) < 1
    middle = plan.total_samples // 2
    assert sum(count.samples for count in plan.counts(middle).counts.values()) == middle
    assert len(json.dumps(plan.to_json())) < 60_000
    began = time.perf_counter()
    for sample in range(middle, middle + 1000):
        at = plan.locate(sample)
        assert sample in plan.samples_reading(at.source, at.start_token + 1, at.start_token + 2)
    assert time.perf_counter() - began < 10  # 1.3 s here, nearly all of it the inverse


def test_a_plan_of_a_trillion_tokens_is_edited_by_arithmetic() -> None:
    sizes = {f"s{n:02d}": 4_000_000_000 + 123_456_789 * n for n in range(100)}
    wanted = config(phase("all", 10**12, 8192), batch=512, max_epochs=500)
    plan = build_plan(wanted, sources(sizes, 131_072))
    step = plan.total_steps // 3
    began = time.perf_counter()
    edited = edit_plan(
        plan,
        step,
        [phase("long", 10**11, 131_072, weights={"s07": 3, "web": 1}, max_epochs={"s07": 99})],
        wanted,
    )
    assert time.perf_counter() - began < 5  # 0.02 s here
    first = edited.phases[1].first_sample
    assert first == step * 512
    assert all(edited.locate(sample) == plan.locate(sample) for sample in range(0, first, first // 50))
    assert edited.planned(step) == plan.planned(step)
    assert len(json.dumps(edited.to_json())) < 60_000
    for name, cursor in edited.cursors().items():
        read = sum(made.counts.get(name, 0) * made.sequence_length for made in edited.phases)
        waste = sum(made.waste.get(name, 0) for made in edited.phases)
        assert read + waste == edited.sources[name].universe.consumed(cursor)


def test_batches_cover_the_stage_and_never_straddle_phases() -> None:
    plan = build_plan(config(phase("a", 1_000), phase("b", 900, 32), phase("c", 512, 64)), sources())
    assert [made.tokens for made in plan.phases] == [896, 896, 512]  # whole steps of 128 tokens
    reached = 0
    for step in range(plan.total_steps):
        batch = plan.batch(step)
        assert batch.first_sample == reached
        assert batch.samples * plan.phases[batch.phase].sequence_length == plan.batch_tokens == 128
        assert {plan.locate(reached + row).phase for row in range(batch.samples)} == {batch.phase}
        reached += batch.samples
        assert sum(count.samples for count in plan.planned(step + 1).counts.values()) == reached
    assert reached == plan.total_samples
    for call in (
        lambda: plan.batch(plan.total_steps),
        lambda: plan.locate(-1),
        lambda: plan.counts(reached + 1),
    ):
        with pytest.raises(IndexError):
            call()


def test_a_domain_is_divided_by_size_without_sources_of_their_own_weight() -> None:
    shares = source_weights(phase(weights={"web": 0.6, "stem": 0.4}), sources())
    assert shares["wiki"] / shares["news"] == Fraction(5_999, 9_000)
    assert shares["wiki"] + shares["news"] == Fraction(6, 10)
    shares = source_weights(phase(weights={"web": 0.6, "wiki": 0.4}), sources())
    assert shares == {"news": Fraction(6, 10), "wiki": Fraction(4, 10)}


def test_too_little_text_is_refused_with_what_to_change() -> None:
    wanted = config(phase(tokens=12_800, weights={"maths": 0.5, "python": 0.3, "web": 0.2}), max_epochs=2)
    with pytest.raises(PlanError) as refusal:
        build_plan(wanted, sources())
    text = str(refusal.value)
    assert "'main'" in text
    assert "maths: asked 400 samples of 16 (6,400 tokens), available 86 (1,376 tokens)" in text
    assert "source x cap is 700 tokens x 2 epochs, and it is in its 1st reading" in text
    assert "python: asked 240 samples" in text
    assert "wiki" not in text
    assert "raise their max_epochs" in text
    generous = phase(
        tokens=12_800, weights=wanted.curriculum.phases[0].weights, max_epochs={"maths": 10, "code": 3}
    )
    assert build_plan(config(generous, max_epochs=2), sources()).total_tokens == 12_800


def test_the_cap_counts_epochs_of_earlier_stages() -> None:
    wanted = config(phase(tokens=640, weights={"maths": 1}), max_epochs=1)
    first = build_plan(wanted, sources())
    with pytest.raises(PlanError, match=r"maths: asked 40 samples of 16 .* available 3 "):
        build_plan(wanted, sources(), first.cursors())


@pytest.mark.parametrize("field", ["weights", "max_epochs"])
def test_unknown_names_are_refused_with_the_known_ones(field: str) -> None:
    wanted = phase(**{"weights": {"web": 1}, field: {"web": 1, "wkii": 1}})
    with pytest.raises(PlanError, match=f"'main': {field} names 'wkii', which") as refusal:
        build_plan(config(wanted), sources())
    assert "domains: code, stem, web" in str(refusal.value)
    assert "sources: maths, news, python, wiki" in str(refusal.value)


def test_only_what_was_out_of_reach_is_left_out() -> None:
    wanted = config(phase(weights={"web": 75, "stem": 15, "code": 10}, max_epochs={"web": 2})).curriculum
    offline = {name: source for name, source in sources().items() if source.domain != "web"}
    skipped = {"wiki": "web", "news": "web"}
    curriculum, left_out = leave_out(wanted, skipped, offline)
    assert left_out == ["web"]
    assert curriculum.phases[0].weights == {"stem": 15, "code": 10}
    assert curriculum.phases[0].max_epochs == {}
    build_plan(PlanConfig(curriculum=curriculum, global_batch_size=8), offline)
    assert leave_out(wanted, {}, offline) == (wanted, [])  # not recorded as skipped: build_plan refuses it
    with pytest.raises(PlanError, match="weights names 'web', which the tokens do not have"):
        build_plan(PlanConfig(curriculum=wanted, global_batch_size=8), offline)
    assert leave_out(wanted, {"wiki": "web"}, sources({"news": 9_001}))[1] == []  # the domain has other text
    with pytest.raises(PlanError, match="out of reach: web"):
        leave_out(config(phase(weights={"web": 1})).curriculum, skipped, offline)


def test_a_length_that_does_not_divide_the_super_chunk_is_refused() -> None:
    with pytest.raises(PlanError, match="48 does not divide the super-chunk of 'wiki', 64 tokens"):
        build_plan(config(phase(length=48), batch=1), sources())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": {"web": 0.0}}, "every weight is zero"),
        ({"weights": {"web": -1.0, "stem": 1.0}}, "not be negative|not negative: web"),
        ({"weights": {"web": float("nan")}}, "finite"),
        ({"weights": {}}, "at least 1 item"),
        ({"tokens": 100}, "less than one step"),
        ({"max_epochs": {"web": 0}}, "at least 1: web"),
    ],
)
def test_senseless_phases_fail_with_the_profile(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(phase(**fields))


def test_lengths_that_do_not_fit_the_step_and_twin_names_fail_with_the_profile() -> None:
    with pytest.raises(ValidationError, match="96 does not divide the 128 tokens of a step"):
        config(phase(), phase("long", length=96))
    with pytest.raises(ValidationError, match="phases share a name: main"):
        config(phase(), phase())


class Written(Stage):
    """Stands for a tokens artifact: the plan reads nothing of one but its index."""

    kind = "tokens"
    index: dict[str, Any]

    def run(self, work: Workspace) -> dict[str, Any]:
        write_json(work.path / "tokens.json", self.index)
        return {}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "index": self.index}


@pytest.fixture
def tokens(tmp_path: Path) -> Callable[..., Artifact]:
    def write(name: str = "tokens", chunk: int = 64, **sizes: int) -> Artifact:
        stage = Written(name, Config(), {})
        stage.index = {
            "sequence_chunk": chunk,
            "sources": {
                source: {
                    "domain": DOMAINS.get(source, "agent"),
                    "splits": {"train": {"tokens": size}, "valid": {}},
                }
                for source, size in (sizes or SIZES).items()
            },
        }
        return execute(stage, Store(tmp_path))

    return write


def test_the_stage_makes_the_edited_plan_and_the_next_goes_on_from_it(
    tokens: Callable[..., Artifact], tmp_path: Path
) -> None:
    store, inputs = Store(tmp_path), {"tokens": tokens()}
    wanted = config(phase())
    edited = wanted.edited(PlanEdit(at_step=20, phases=(phase("rest", 2_560, 32, weights={"code": 1}),)))
    plain = execute(PlanStage("plan.one", wanted, inputs), store)
    made = execute(PlanStage("plan.one", edited, inputs), store)
    assert made.fingerprint != plain.fingerprint
    assert Plan.load(made.path) == edit_plan(Plan.load(plain.path), 20, edited.edits[0].phases, wanted)
    assert (made.summary["steps"], made.summary["phases"]) == (40, 2)
    following = execute(PlanStage("plan.two", config(phase()), {**inputs, "previous": made}), store)
    assert not set(places(Plan.load(made.path))) & set(places(Plan.load(following.path)))


def test_stages_hand_their_cursors_on(tokens: Callable[..., Artifact], tmp_path: Path) -> None:
    corpus, agent = tokens(), tokens("agent_tokens", repair=3_000)
    store = Store(tmp_path)
    first = execute(PlanStage("plan.one", config(phase(tokens=3_200)), {"tokens": corpus}), store)
    wanted = config(phase(tokens=3_840, length=32, weights={"agent": 0.6, "web": 0.4}), seed=99)
    inputs = {"tokens": corpus, "agent_tokens": agent, "previous": first}
    second = execute(PlanStage("plan.two", wanted, inputs), store)
    before, after = Plan.load(first.path), Plan.load(second.path / "plan.json")
    assert after.cursors_in == before.cursors()
    assert not set(places(before)) & set(places(after))
    assert after.sources["repair"].role == "agent_tokens"
    assert after.sources["repair"].fingerprint == agent.fingerprint
    assert second.summary["domains"] == {"agent": 2304, "web": 1536}
    assert second.summary["tokens"] == after.total_tokens == 3_840
    again = execute(PlanStage("plan.two", wanted, inputs), Store(tmp_path / "other"))
    assert (again.path / "plan.json").read_bytes() == (second.path / "plan.json").read_bytes()


def test_cursors_are_not_carried_to_other_tokens(tokens: Callable[..., Artifact], tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = execute(PlanStage("plan.one", config(phase()), {"tokens": tokens()}), store)
    changed = tokens("tokens", **{**SIZES, "wiki": 6_001})
    with pytest.raises(PlanError, match=r"source 'maths' is not what plan.one-.* read: 700 tokens of"):
        execute(PlanStage("plan.two", config(phase()), {"tokens": changed, "previous": first}), store)
    other = tokens("agent_tokens", repair=5_000)
    wanted = config(phase(weights={"agent": 1}))
    with pytest.raises(PlanError, match=r"has read news, wiki, which no tokens input of plan\.two holds"):
        execute(PlanStage("plan.two", wanted, {"agent_tokens": other, "previous": first}), store)


def test_a_source_in_two_inputs_is_refused(tokens: Callable[..., Artifact], tmp_path: Path) -> None:
    twice = {"tokens": tokens(), "agent_tokens": tokens("agent_tokens", wiki=500)}
    with pytest.raises(PlanError, match="source 'wiki' is in both"):
        execute(PlanStage("plan.one", config(phase()), twice), Store(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"phases": [{}]}, "is not a plan"),
        ({"total_samples": 1}, "do not add up"),
        ({"sources": None}, "is not a plan"),
    ],
)
def test_a_damaged_plan_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_json(path, {**build_plan(config(phase()), sources()).to_json(), **change})
    with pytest.raises(DamagedError, match=message) as refusal:
        Plan.load(path)
    assert str(path) in str(refusal.value)


@settings(max_examples=40)
@given(legs=PHASES, data=st.data())
def test_a_token_range_leads_to_exactly_the_samples_that_read_it(legs: Legs, data: st.DataObject) -> None:
    plan = build_plan(make(legs), sources())
    name = data.draw(st.sampled_from(sorted(SIZES)))
    start = data.draw(st.integers(0, SIZES[name] - 1))
    stop = data.draw(st.integers(start + 1, min(SIZES[name], start + 300)))
    assume(any(name in made.counts for made in plan.phases))
    located = [(sample, plan.locate(sample)) for sample in range(plan.total_samples)]
    expected = [
        sample
        for sample, at in located
        if at.source == name and at.start_token < stop and at.start_token + at.sequence_length >= start
    ]
    assert plan.samples_reading(name, start, stop) == expected


TIERED = {"wiki.t0": 4_001, "wiki.t1": 2_001, "wiki.t2": 1_001, "news": 3_001, "maths": 701}


def tiered(sizes: dict[str, int] = TIERED) -> dict[str, PlannedSource]:
    found = {}
    for name, size in sizes.items():
        parent, dot, tier = name.partition(".t")
        domain = DOMAINS.get(parent, "web")
        universe = Universe(name, size, 64, 7)
        found[name] = PlannedSource(
            universe, domain, "tokens", "f" * 64, parent if dot else "", int(tier) if dot else None
        )
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"weights": {"wiki": 7}}, {"wiki.t0": 4, "wiki.t1": 2, "wiki.t2": 1}),
        ({"weights": {"web": 10}}, {"wiki.t0": 4, "wiki.t1": 2, "wiki.t2": 1, "news": 3}),
        ({"weights": {"wiki": 8}, "upsample": {"t2": 2}}, {"wiki.t0": 4, "wiki.t1": 2, "wiki.t2": 2}),
        ({"weights": {"wiki": 3}, "upsample": {"t0": 0}}, {"wiki.t0": 0, "wiki.t1": 2, "wiki.t2": 1}),
        (
            {"weights": {"wiki": 9}, "upsample": {"t2": 9, "wiki.t2": 3}},
            {"wiki.t0": 4, "wiki.t1": 2, "wiki.t2": 3},
        ),
        (
            {"weights": {"web": 16}, "upsample": {"t2": 3, "t1": 2.5, "t0": 1.25}},
            {"wiki.t0": 5, "wiki.t1": 5, "wiki.t2": 3, "news": 3},
        ),
        ({"weights": {"wiki.t2": 1, "wiki": 6}}, {"wiki.t0": 4, "wiki.t1": 2, "wiki.t2": 1}),
        ({"weights": {"wiki.t2": 5, "web": 9}}, {"wiki.t0": 4, "wiki.t1": 2, "wiki.t2": 5, "news": 3}),
        ({"weights": {"wiki": 14, "web": 1}}, {"wiki.t0": 8, "wiki.t1": 4, "wiki.t2": 2, "news": 1}),
    ],
)
def test_shares_are_divided_over_tiers_by_tokens_and_factors(
    fields: dict[str, Any], expected: dict[str, int]
) -> None:
    assert source_weights(phase(**fields), tiered()) == expected


NAMED = [["wiki"], ["web"], ["web", "wiki.t1"], ["wiki", "wiki.t1", "stem"], ["web", "news"], ["wiki", "web"]]


@settings(max_examples=60)
@given(
    weights=st.sampled_from(NAMED).flatmap(
        lambda names: st.fixed_dictionaries({name: st.floats(0.01, 5) for name in names})
    ),
    upsample=st.dictionaries(
        st.sampled_from(["t0", "t1", "t2", "wiki.t2"]), st.sampled_from([0.0, 0.5, 1.0, 3.0])
    ).filter(lambda factors: factors.get("t0", 1)),  # something is left of every source
)
def test_counts_over_tiers_are_exact(weights: dict[str, float], upsample: dict[str, float]) -> None:
    wanted = phase(weights=weights, upsample=upsample)
    plan = build_plan(config(wanted), tiered())
    shares = source_weights(wanted, tiered())
    assert sum(shares.values()) == sum(Fraction(str(weight)) for weight in weights.values())
    for name, share in shares.items():
        exact = plan.total_samples * share / sum(shares.values())
        assert abs(plan.phases[0].counts.get(name, 0) - exact) < 1
        if not share:
            assert name not in plan.phases[0].counts
    assert sum(plan.phases[0].counts.values()) == plan.total_samples
    found = places(plan)
    assert len(set(found)) == len(found)
    assert plan_from_json(json.loads(json.dumps(plan.to_json())), Path("plan.json")) == plan


def test_a_source_s_cap_counts_over_its_tiers_and_a_tier_may_have_its_own() -> None:
    favoured = phase(tokens=7_680, weights={"wiki": 1}, upsample={"t2": 20, "t0": 0, "t1": 0.5})
    with pytest.raises(PlanError, match="asks for more than source x cap") as refusal:
        build_plan(config(favoured, max_epochs=2), tiered())
    assert "wiki.t2: asked 457 samples of 16 (7,312 tokens), available 124" in str(refusal.value)
    assert "source x cap is 1,001 tokens x 2 epochs, and it is in its 1st reading" in str(refusal.value)
    allowed = favoured.model_copy(update={"max_epochs": {"wiki.t2": 8}})
    plan = build_plan(config(allowed, max_epochs=2), tiered())
    assert (
        build_plan(config(favoured.model_copy(update={"max_epochs": {"t2": 8}}), max_epochs=2), tiered())
        == plan
    )
    once = allowed.model_copy(update={"max_epochs": {"wiki.t2": 8, "wiki": 1}})
    with pytest.raises(PlanError) as refusal:
        build_plan(config(once, max_epochs=2), tiered())
    line = (
        "  wiki, its tiers together: asked 7,680 tokens, available 7,000 tokens: source x cap is 7,000 tokens"
    )
    assert f"{line} x 1 epochs, of which 0 are read" in str(refusal.value)
    more = phase("more", 6_400, weights={"wiki": 1}, upsample={"t2": 0})
    with pytest.raises(PlanError) as refusal:  # 2 x 7,000, of which the phase before has read some
        build_plan(config(allowed, more, max_epochs=2), tiered())
    read = sum(plan.sources[name].universe.consumed(at) for name, at in plan.cursors().items())
    assert f"available {14_000 - read:,} tokens" in str(refusal.value)
    assert f"of which {read:,} are read" in str(refusal.value)


def test_the_most_particular_exception_is_a_tier_s_cap() -> None:
    wanted = phase(max_epochs={"web": 2, "wiki": 3, "t1": 4, "wiki.t2": 5})
    caps = Caps(wanted, 1, tiered())
    expected = {"wiki.t0": 3, "wiki.t1": 4, "wiki.t2": 5, "news": 2, "maths": 1}
    assert {name: caps.of(name) for name in tiered()} == expected


def test_what_one_phase_may_repeat_more_often_the_next_may_not_go_on_with() -> None:
    often = phase(tokens=1_664, weights={"maths": 1}, max_epochs={"maths": 9})
    assert build_plan(config(often, max_epochs=2), sources()).cursors()["maths"].epoch == 2
    with pytest.raises(PlanError, match=r"maths: asked 8 .*, available 0 .* it is in its 3rd"):
        build_plan(config(often, phase("more", 128, weights={"maths": 1}), max_epochs=2), sources())


@pytest.mark.parametrize(
    ("fields", "sizes", "message"),
    [
        ({"upsample": {"t7": 2}}, TIERED, "upsample names 't7', which the tokens do not have"),
        ({"upsample": {"t1": 2}}, SIZES, r"upsample names 't1', .*\n  tiers: \(none\)"),
        ({"weights": {"wiki.t9": 1}}, TIERED, "weights names 'wiki.t9'"),
        ({"weights": {"t1": 1}}, TIERED, "weights names 't1'"),
        (
            {"weights": {"wiki": 1}, "upsample": {"t0": 0, "t1": 0, "t2": 0}},
            TIERED,
            "source 'wiki' has no tokens left to give its weight 1.0 to",
        ),
    ],
)
def test_tiers_that_are_not_there_are_refused(
    fields: dict[str, Any], sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        build_plan(config(phase(**fields)), tiered(sizes))


def test_tiers_of_what_was_out_of_reach_are_left_out() -> None:
    wanted = config(
        phase(weights={"blog.t1": 1, "maths": 1}, max_epochs={"blog.t0": 1}, upsample={"blog.t1": 2})
    ).curriculum
    curriculum, left_out = leave_out(wanted, {"blog": "web"}, tiered())
    assert left_out == ["blog.t1", "blog.t0"]
    assert build_plan(PlanConfig(curriculum=curriculum, global_batch_size=8), tiered()).phases[
        0
    ].counts.keys() == {"maths"}


def test_epochs_count_from_nought_and_readings_from_one() -> None:
    assert [reading(epoch) for epoch in (0, 1, 2, 3, 10, 11, 12, 20, 21, 110)] == [
        f"{ordinal} reading"
        for ordinal in ("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "111th")
    ]
