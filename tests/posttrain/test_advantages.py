import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from posttrain.advantages import ADVANTAGES, informative

REWARDS = arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(2, 9)),
    elements=st.integers(-20, 20).map(lambda tenths: tenths / 10),
)


@given(REWARDS, st.sampled_from(sorted(ADVANTAGES)))
def test_they_add_up_to_zero_in_every_group(rewards: np.ndarray, name: str) -> None:
    assert np.allclose(ADVANTAGES[name](rewards).sum(axis=1), 0, atol=1e-9)


@given(REWARDS, st.sampled_from(sorted(ADVANTAGES)))
def test_better_rewards_have_larger_advantages(rewards: np.ndarray, name: str) -> None:
    for group, advantages in zip(rewards, ADVANTAGES[name](rewards)):
        order = np.argsort(group, kind="stable")
        assert (np.diff(advantages[order]) >= 0).all()


@given(REWARDS, st.floats(0.5, 4), st.floats(-5, 5))
def test_grpo_does_not_see_the_scale_of_rewards(rewards: np.ndarray, scale: float, shift: float) -> None:
    kept = rewards[informative(rewards)]
    if len(kept):
        assert np.allclose(ADVANTAGES["grpo"](kept), ADVANTAGES["grpo"](scale * kept + shift), atol=1e-4)


def test_grpo_divides_by_the_sample_deviation() -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert ADVANTAGES["grpo"](rewards)[0] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


@given(REWARDS)
def test_rloo_is_the_reward_over_the_mean_of_the_others(rewards: np.ndarray) -> None:
    group = rewards.shape[1]
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (group - 1)
    assert np.allclose(ADVANTAGES["rloo"](rewards), rewards - others)


@given(REWARDS, st.sampled_from(sorted(ADVANTAGES)))
def test_only_groups_without_differences_are_uninformative(rewards: np.ndarray, name: str) -> None:
    nothing = np.abs(ADVANTAGES[name](rewards)).max(axis=1) < 1e-9
    assert (nothing == ~informative(rewards)).all()
