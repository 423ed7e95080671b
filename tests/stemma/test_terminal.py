"""What a terminal shows is what was printed."""

import pytest

from stemma.terminal import console


def test_text_that_looks_like_an_emoji_code_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Decoded samples are full of it: ``d[a:cat:b]``, reStructuredText's roles, YAML."""
    console().print("x[1:cat:2]", markup=False)
    assert capsys.readouterr().out == "x[1:cat:2]\n"
