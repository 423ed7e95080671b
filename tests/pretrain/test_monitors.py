"""Loss by position and needles: the law against closed forms, the monitors in the real loop."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from data_pipeline.curriculum.plan import Plan
from data_pipeline.tokens.shards import open_shards
from pretrain.batch import MicroBatch
from pretrain.engine import Engine
from pretrain.loop import Stopped, train
from pretrain.monitors.needle import DEPTHS, DIGITS, make_needle, score
from pretrain.monitors.positional_law import Bins, PositionalFit, extrapolate, fit
from pretrain.monitors.positions import PositionLosses
from pretrain.objective import LanguageModel
from stemma.core.artifact import Artifact
from stemma.core.files import read_jsonl
from stemma.core.progress import Progress


def curve(law: PositionalFit, length: int) -> tuple[np.ndarray, np.ndarray, Bins]:
    """Means, weights and bins of a curve that is exactly the law."""
    bins = Bins.of(length)
    losses = law.loss(np.arange(1, length + 1, dtype=np.float64))
    return bins.means(losses), np.diff(bins.edges).astype(np.float64), bins


@settings(max_examples=12, deadline=None)
@given(
    st.floats(0.2, 8.0),
    st.floats(0.003, 3.0),
    st.floats(0.5, 6.0),
    st.integers(128, 5000),
)
def test_the_coefficients_of_a_curve_without_noise_are_found(
    a0: float, a1: float, a2: float, length: int
) -> None:
    found = fit(*curve(PositionalFit(a0, a1, a2, 0.0, True), length))
    assert found.identifiable
    assert (found.a0, found.a1, found.a2) == pytest.approx((a0, a1, a2), rel=1e-6)


@pytest.mark.parametrize(("a0", "a1", "a2"), [(3.0, 0.05, 2.0), (1.0, 0.5, 3.0), (2.0, 0.002, 1.0)])
def test_the_mean_over_positions_is_its_closed_form(a0: float, a1: float, a2: float) -> None:
    length = 1024
    digammas = mpmath.digamma(length + 1 + 1 / a1) - mpmath.digamma(1 + 1 / a1)
    expected = a2 + a0 / (length * a1) * float(digammas)
    assert PositionalFit(a0, a1, a2, 0.0, True).mean(length) == pytest.approx(expected, rel=1e-12)


def test_a_flat_curve_has_no_bend_to_read() -> None:
    found = fit(*curve(PositionalFit(0.0, 0.0, 3.3, 0.0, True), 256))
    assert not found.identifiable
    assert found.mean(256) == pytest.approx(3.3)
    noisy = np.random.default_rng(0).normal(3.3, 0.01, len(Bins.of(64).edges) - 1)
    assert fit(noisy, np.ones_like(noisy), Bins.of(64)).a2 == pytest.approx(3.3, abs=0.05)


@pytest.mark.parametrize(
    "means",
    [
        lambda bins: np.linspace(2.0, 4.0, bins),  # rises
        lambda bins: np.where(np.arange(bins) == 0, 9.0, 3.0),  # the first position alone is worse
        lambda bins: 6.0 - np.linspace(0.0, 2.0, bins) ** 2,  # falls ever faster
    ],
)
def test_a_curve_that_bends_otherwise_gets_no_coefficients(means: Callable[[int], np.ndarray]) -> None:
    bins = Bins.of(128)
    sizes = np.diff(bins.edges).astype(np.float64)
    found = fit(means(len(sizes)), sizes, bins)
    assert not found.identifiable
    assert found.mean(128) == pytest.approx(np.average(means(len(sizes)), weights=sizes))


def test_positions_without_loss_do_not_count() -> None:
    law = PositionalFit(2.0, 0.1, 1.0, 0.0, True)
    means, weights, bins = curve(law, 256)
    means[5:9], weights[5:9] = 99.0, 0.0
    assert fit(means, weights, bins).a1 == pytest.approx(0.1, rel=1e-6)
    with pytest.raises(ValueError, match="3 positions have a loss"):
        fit(means, np.where(np.arange(len(means)) < 3, 1.0, 0.0), bins)


@given(st.integers(1, 200_000))
def test_bins_hold_every_position_once(length: int) -> None:
    edges = Bins.of(length).edges
    assert edges[0] == 0
    assert edges[-1] == length
    assert all(a < b for a, b in pairwise(edges))
    assert len(edges) < 12 + 8 * math.log2(length + 1)


def test_extrapolation_follows_power_laws_and_needs_four_fits() -> None:
    steps = [100, 200, 400, 800, 1600]
    fits = [PositionalFit(2 + 5 * t**-0.5, 0.1 * t**0.2, 1 + 8 * t**-0.5, 0.0, True) for t in steps]
    ahead = extrapolate(steps, fits, 6400)
    assert ahead is not None
    assert (ahead.a0, ahead.a2) == pytest.approx((2 + 5 / 80, 1 + 8 / 80), rel=1e-3)
    assert extrapolate(steps[:3], fits[:3], 6400) is None
    flat = PositionalFit(0.0, 0.0, 3.0, 0.0, identifiable=False)
    assert extrapolate(steps, [*fits[:3], flat, flat], 6400) is None


def test_losses_are_added_up_at_the_positions_the_batch_says(engine: Engine) -> None:
    collected, reference = PositionLosses(engine), PositionLosses(engine)
    law = PositionalFit(2.0, 0.2, 1.5, 0.0, True)
    losses = torch.tensor(law.loss(np.arange(1.0, 129.0))).float().expand(4, 128)
    positions = torch.arange(128).expand(4, 128)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    mask = (torch.rand(4, 128, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    nothing = torch.zeros(4, 128, dtype=torch.long)
    for collector, at in ((reference, torch.arange(128)), (collected, order)):
        collector.begin(128)
        micro = MicroBatch(nothing, nothing, mask[:, at], positions[:, at])
        collector.observe(losses[:, at], micro)
    assert torch.equal(collected.sums, reference.sums)
    record = collected.end(1)
    assert record is not None
    assert record["tokens"] == int(mask.sum())
    assert record["a1"] == pytest.approx(0.2, rel=1e-2)  # the mask leaves bins with unequal parts
    assert collected.end(2) is None  # nothing was seen since


def test_a_step_that_went_wrong_does_not_spoil_its_window(engine: Engine) -> None:
    collected, reference = PositionLosses(engine), PositionLosses(engine)
    nothing = torch.zeros(4, 128, dtype=torch.long)
    micro = MicroBatch(nothing, nothing, torch.ones(4, 128), torch.arange(128).expand(4, 128))
    good = torch.rand(4, 128, generator=torch.Generator().manual_seed(0)) + 2
    for collector in (collected, reference):
        collector.begin(128)
        collector.observe(good, micro)
    for bad in (math.nan, math.inf, 1e30):
        collected.observe(torch.full((4, 128), bad), micro)
    assert collected.end(1) == reference.end(1)


def loop_parts(
    engine: Engine, job: Any, plan: Artifact, inputs: dict[str, Artifact]
) -> tuple[LanguageModel, Progress]:
    shards = open_shards([inputs["tokens"].path], "train")
    objective = LanguageModel(engine, Plan.load(plan.path), shards, job.training, {})
    return objective, Progress("stem")


MONITOR = {"positions_every": 3, "needles": 1}


def test_an_interrupted_run_leaves_the_same_records(
    tmp_path: Path,
    make_job: Callable[..., Any],
    make_plan: Callable[..., Artifact],
    inputs: dict[str, Artifact],
    engine: Engine,
) -> None:
    plan = make_plan(steps=8, lengths=(64, 128))
    records = []
    for name, stop_after in (("whole", 0), ("parts", 2)):
        job = make_job(tmp_path / name, monitor=MONITOR)
        fresh = Engine.build(job.model, job.training, job.execution)
        objective, progress = loop_parts(fresh, job, plan, inputs)
        seen = 0

        def stop() -> bool:
            nonlocal seen
            seen += 1
            return seen == stop_after  # noqa: B023 (called before the next turn)

        if stop_after:
            with pytest.raises(Stopped):
                train(job, fresh, objective, progress, stop)
            objective, progress = loop_parts(fresh, job, plan, inputs)
        train(job, fresh, objective, progress, lambda: False)
        records.append(list(read_jsonl(Path(job.path) / "monitors.jsonl")))
    assert records[0] == records[1]
    kinds = [(line["monitor"], line["step"], line["sequence_length"]) for line in records[0]]
    assert kinds == [
        ("positions", 3, 64),
        ("positions", 4, 64),
        ("positions", 6, 128),
        ("positions", 8, 128),
        ("needle", 8, 128),
    ]
    needle = records[0][-1]  # at 64 bytes, the sentence does not fit twice
    assert needle["needles"] == len(needle["depths"]) == len(DEPTHS)
    assert math.isfinite(needle["gain"])
    assert all(0 < line["mean"] < 7 for line in records[0] if line["monitor"] == "positions")


def test_a_needle_stands_where_it_should_and_is_asked_for_at_the_end(inputs: dict[str, Artifact]) -> None:
    tokenizer = Tokenizer.from_file(str(inputs["tokenizer"].path / "hf" / "tokenizer.json"))
    haystack = open_shards([inputs["tokens"].path], "valid")["json"]
    for depth in DEPTHS:
        needle = make_needle(tokenizer, haystack, 512, depth, 0)
        assert needle is not None
        assert len(needle.tokens) == 512
        number = [needle.tokens[at] for at in needle.first]
        assert number == [needle.tokens[at] for at in needle.last]
        assert tokenizer.decode(number).strip().isdigit()
        assert len(tokenizer.decode(number).strip()) == DIGITS
        assert needle.last.stop == 512
        assert abs(needle.first.start / 512 - depth) < 0.25
    assert make_needle(tokenizer, haystack, 60, 0.5, 0) is None  # this tokenizer's sentence is 38 bytes long


def test_the_score_is_the_gain_of_the_second_time() -> None:
    needle = make_needle_of(first=range(3, 5), last=range(8, 10))
    logprobs = np.array([-9, -9, -4, -6, -9, -9, -9, -0.5, -0.6, 0.0])
    assert score(needle, logprobs) == {"gain": pytest.approx(5.0 - 0.55), "found": 1.0}
    logprobs[8] = -0.7
    assert score(needle, logprobs)["found"] == 0.0


def make_needle_of(first: range, last: range) -> Any:
    from pretrain.monitors.needle import Needle

    return Needle(np.zeros(10, dtype=np.int64), 0.5, first, last)
