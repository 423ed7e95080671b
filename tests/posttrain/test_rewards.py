import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config import RewardConfig
from posttrain.rewards import dominant_script, language_consistency, repetition, reward


def test_an_answer_in_another_script_is_penalized() -> None:
    assert language_consistency("How many heads?", "Seven heads.") == 0
    assert language_consistency("How many heads?", "七个头，没有更多") == -1
    assert language_consistency("有几个头？", "seven heads") == -1
    assert language_consistency("有几个头？", "七 heads 个头在这里一二三") == 0


def test_answers_without_letters_have_no_language() -> None:
    assert language_consistency("有几个头？", "42") == 0
    assert language_consistency("2 + 2 =", "四") == 0


@given(st.text(alphabet=st.characters(categories=["L", "N", "P"])))
def test_the_dominant_script_does_not_depend_on_order(text: str) -> None:
    assert dominant_script(text) == dominant_script(text[::-1])


def test_repetition_grows_from_the_tolerance_to_one() -> None:
    assert repetition(range(100), 4, 0.3) == 0
    assert repetition([7] * 1000, 4, 0.3) == pytest.approx(-1, abs=0.01)
    assert repetition([1, 1, 1, 1, 1], 1, 0.3) == pytest.approx(-0.5 / 0.7)  # four of five repeat
    assert repetition([1, 1, 1, 1, 1], 1, 0.9) == 0


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 5), st.floats(0, 0.9))
def test_repetition_stays_between_minus_one_and_zero(ids: list[int], ngram: int, tolerance: float) -> None:
    assert -1 <= repetition(ids, ngram, tolerance) <= 0


def test_the_total_is_the_weighted_sum() -> None:
    config = RewardConfig(
        score=2.0, language=0.5, repetition=0.25, repetition_ngram=2, repetition_tolerance=0.0
    )
    parts = reward(config, 1.0, "question", "答案答案", [1, 2, 1, 2, 1])
    assert parts["score"] == 1.0
    assert parts["language"] == -1.0
    assert parts["repetition"] == pytest.approx(-0.5)
    assert parts["total"] == pytest.approx(2.0 - 0.5 - 0.125)
