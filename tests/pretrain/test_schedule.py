import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.config import ScheduleConfig
from pretrain.schedule import learning_rate

SHAPES = ["constant", "linear", "cosine", "wsd"]


@given(st.sampled_from(SHAPES), st.integers(0, 20), st.integers(1, 60), st.floats(0.05, 1.0))
def test_a_schedule_rises_to_its_peak_falls_to_its_end_and_never_leaves_its_bounds(
    shape, warmup, after, decay
):
    schedule = ScheduleConfig(
        shape=shape, peak_lr=3e-3, start_lr=1e-4, end_lr=2e-4, warmup_steps=warmup, decay_fraction=decay
    )
    rates = [learning_rate(schedule, step, warmup + after) for step in range(warmup + after)]
    assert all(1e-4 <= rate <= 3e-3 * (1 + 1e-12) for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup:
        assert rates[warmup - 1] == pytest.approx(3e-3)
    assert rates[-1] == pytest.approx(3e-3 if shape == "constant" else 2e-4)


def test_wsd_stays_before_it_falls():
    schedule = ScheduleConfig(shape="wsd", peak_lr=1.0, warmup_steps=0, decay_fraction=0.25)
    rates = [learning_rate(schedule, step, 100) for step in range(100)]
    assert rates[:75] == [1.0] * 75
    assert rates[99] == 0.0
    assert rates[80] == pytest.approx(1 - (6 / 25) ** 0.5)  # 1 - sqrt of the decay's progress


def test_cosine_is_halfway_in_the_middle():
    schedule = ScheduleConfig(shape="cosine", peak_lr=1.0, end_lr=0.2)
    assert learning_rate(schedule, 49, 100) == pytest.approx(0.6)


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_stage_is_refused(step):
    with pytest.raises(ValueError, match="not within a stage of 10 steps"):
        learning_rate(ScheduleConfig(peak_lr=1.0), step, 10)


@pytest.mark.parametrize("field", ["start_lr", "end_lr"])
def test_a_rate_above_the_peak_is_refused(field):
    with pytest.raises(ValueError, match="above peak_lr"):
        ScheduleConfig(peak_lr=1e-3, **{field: 2e-3})
