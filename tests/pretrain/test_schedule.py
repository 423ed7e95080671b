from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.config import ScheduleConfig, TrainingConfig, joined
from pretrain.schedule import learning_rate

SHAPES = ["constant", "linear", "cosine", "wsd"]
DECAYS = ["linear", "cosine", "1-sqrt"]


@given(
    st.sampled_from(SHAPES),
    st.sampled_from(DECAYS),
    st.integers(0, 20),
    st.integers(1, 60),
    st.floats(0.05, 1.0),
)
def test_a_schedule_rises_to_its_peak_falls_to_its_end_and_never_leaves_its_bounds(
    shape: Any, decay: Any, warmup: int, after: int, fraction: float
) -> None:
    schedule = ScheduleConfig(
        shape=shape,
        decay=decay,
        peak_lr=3e-3,
        start_lr=1e-4,
        end_lr=2e-4,
        warmup_steps=warmup,
        decay_fraction=fraction,
    )
    rates = [learning_rate(schedule, step, warmup + after) for step in range(warmup + after)]
    assert all(1e-4 <= rate <= 3e-3 * (1 + 1e-12) for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup:
        assert rates[warmup - 1] == pytest.approx(3e-3)
    assert rates[-1] == schedule.final_lr  # the next stage may go on from there
    assert schedule.final_lr == (3e-3 if shape == "constant" else 2e-4)


@pytest.mark.parametrize(
    ("decay", "left"), [("linear", 1 - 6 / 25), ("cosine", 0.8644843), ("1-sqrt", 1 - (6 / 25) ** 0.5)]
)
def test_wsd_stays_before_it_falls(decay: Any, left: float) -> None:
    schedule = ScheduleConfig(shape="wsd", peak_lr=1.0, warmup_steps=0, decay_fraction=0.25, decay=decay)
    rates = [learning_rate(schedule, step, 100) for step in range(100)]
    assert rates[:75] == [1.0] * 75
    assert rates[99] == 0.0
    assert rates[80] == pytest.approx(left)  # 6 of the 25 steps down


def test_cosine_is_half_way_down_in_the_middle() -> None:
    schedule = ScheduleConfig(shape="cosine", peak_lr=1.0, end_lr=0.2)
    assert learning_rate(schedule, 49, 100) == pytest.approx(0.6)


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_stage_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match="not within a stage of 10 steps"):
        learning_rate(ScheduleConfig(peak_lr=1.0), step, 10)


@pytest.mark.parametrize("field", ["start_lr", "end_lr"])
def test_a_rate_above_the_peak_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="above peak_lr"):
        ScheduleConfig(**{"peak_lr": 1e-3, field: 2e-3})


def test_a_rate_that_nobody_put_in_is_refused() -> None:
    with pytest.raises(ValueError, match="the stage before"):
        learning_rate(ScheduleConfig(peak_lr=None), 0, 10)


def stages(*changes: dict[str, Any]) -> dict[str, TrainingConfig]:
    """Stages of these schedules; what is no field of a schedule is one of the training."""
    found = {}
    for number, change in enumerate(changes):
        schedule = {key: value for key, value in change.items() if key in ScheduleConfig.model_fields}
        rest = {key: value for key, value in change.items() if key not in schedule}
        fields = {"global_batch_size": 8, "schedule": schedule} | rest
        found[f"stage{number}"] = TrainingConfig.model_validate(fields)
    return found


@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.integers(1, 30)), min_size=2, max_size=5))
def test_stages_joined_by_null_make_one_curve_without_a_jump(given: list[tuple[Any, int]]) -> None:
    fields = [
        {"peak_lr": None, "shape": shape, "end_lr": 1e-3 / 2**at} for at, (shape, _) in enumerate(given)
    ]
    resolved, problems = joined(stages({"peak_lr": 2e-3}, *fields))
    assert not problems
    schedules = [training.schedule for training in resolved.values()]
    last = 2e-3
    for schedule, (_, steps) in zip(schedules[1:], given):
        assert schedule.peak_lr == last  # exactly: a rate is a number in the stage's fingerprint
        rates = [learning_rate(schedule, step, steps) for step in range(steps)]
        assert max(rates) <= last
        last = schedule.final_lr
        assert rates[-1] == pytest.approx(last)


FALLS: dict[str, Any] = {"peak_lr": 1e-3, "shape": "cosine", "end_lr": 1e-4}


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ({"peak_lr": 1e-4}, None),
        ({"peak_lr": None}, None),
        ({"peak_lr": 1e-3}, "stage1.schedule.peak_lr 0.001 is not where stage0 ends, 0.0001"),
        ({"peak_lr": 1e-3, "warmup_steps": 1}, None),
        ({"peak_lr": 1e-3, "jump": True}, None),
        ({"peak_lr": 1e-3, "carry_optimizer": False}, None),
        ({"peak_lr": None, "shape": "linear", "end_lr": 5e-4}, "ends with 0.0001, and end_lr"),
        ({"peak_lr": 1e-4, "optimizer": {"name": "muon"}}, "optimizer.name 'muon' cannot take over"),
        ({"peak_lr": 1e-4, "optimizer": {"decay_embeddings": False}}, "decay_embeddings False cannot take"),
        ({"peak_lr": 1e-3, "optimizer": {"name": "muon"}, "carry_optimizer": False}, None),
        ({"peak_lr": 1e-4, "precision": "bf16"}, "stage1.precision bf16 cannot take over the moments"),
        ({"peak_lr": 1e-4, "precision": "bf16", "carry_optimizer": False}, None),
    ],
)
def test_a_jump_or_another_optimizer_has_to_be_declared(second: dict[str, Any], problem: str | None) -> None:
    _, problems = joined(stages(FALLS, second))
    assert len(problems) == (0 if problem is None else 1)
    assert problem is None or problem in problems[0]


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"peak_lr": None}, "there is no rate to go on from"),
        ({"peak_lr": 1e-3, "shape": "linear"}, "ends with a learning rate of 0"),
    ],
)
def test_no_rate_to_go_on_from_is_a_problem_that_is_named_once(first: dict[str, Any], said: str) -> None:
    _, problems = joined(stages(first, {"peak_lr": None}, {"peak_lr": 1e-3}))
    assert said in problems[0]
    assert all("null" in problem for problem in problems)
