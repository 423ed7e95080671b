import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stemma.core.config import Config, canonical_json, differences, digest, execution_field, identity


class Inner(Config):
    rate: float = 0.5
    workers: int = execution_field(2, ge=1)


class Outer(Config):
    inner: Inner = Inner()
    parts: dict[str, Inner] = {}  # noqa: RUF012 (pydantic copies it)
    tags: tuple[str, ...] = ()


def test_execution_fields_stay_out_of_identity_at_every_depth():
    a = Outer(inner=Inner(workers=1), parts={"x": Inner(workers=3)})
    b = Outer(inner=Inner(workers=9), parts={"x": Inner(workers=4)})
    assert digest(identity(a)) == digest(identity(b))
    assert digest(identity(a)) != digest(identity(Outer(inner=Inner(rate=0.6), parts={"x": Inner()})))


def test_configs_refuse_unknown_fields_and_changes():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Inner(speed=1)
    with pytest.raises(ValidationError, match="frozen"):
        Inner().rate = 1.0


def test_identity_refuses_what_has_no_json_form():
    with pytest.raises(TypeError, match="no canonical JSON form"):
        identity({"a": object()})


def test_nan_has_no_canonical_form():
    with pytest.raises(ValueError):
        canonical_json({"a": math.nan})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=5))
def test_digest_ignores_insertion_order(value):
    assert digest(value) == digest(dict(reversed(value.items())))


@given(json_values, json_values)
def test_differences_are_empty_exactly_for_equal_values(a, b):
    assert differences(a, a) == []
    if canonical_json(a) != canonical_json(b) and a != b:
        assert differences(a, b)


def test_differences_name_the_path():
    old = {"training": {"lr": 1, "seed": 2}, "phases": [{"tokens": 5}]}
    new = {"training": {"lr": 3}, "phases": [{"tokens": 6}]}
    assert differences(old, new) == [
        "phases[0].tokens: 5 -> 6",
        "training.lr: 1 -> 3",
        "training.seed: 2 -> (absent)",
    ]
