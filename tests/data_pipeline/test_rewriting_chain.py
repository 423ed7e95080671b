"""The steps that rewrite and judge texts, as a profile names them and the corpus runs them."""

import json

import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from pydantic import TypeAdapter, ValidationError

from data_pipeline.cleaning.chain import Decide, build_chain
from data_pipeline.config.cleaning import Chain
from data_pipeline.sources.documents import document_id

CHAIN = TypeAdapter(Chain)


def documents(**texts):
    about = {"source": "s", "language": "en", "licence": "MIT", "domain": "code"}
    return [Document(text, name, metadata={**about, "origin": name}) for name, text in texts.items()]


def test_a_chain_rewrites_rejects_and_tells_what_it_found(tmp_path):
    steps = CHAIN.validate_python([{"licence": {"allow": ["MIT"]}}, "normalise", {"pii": {"secrets": True}}])
    key = "AKIA" + "Q3EGRTUV7XYZ2345"
    given = documents(
        clean="x = 1\n",
        mail=f"\ufeff# ann@acme.com\r\nkey = '{key}'\r\n",
        gpl="# SPDX-License-Identifier: GPL-3.0-only\nx = 2\n",
        mit="# SPDX-License-Identifier: mit\nx = 3\n",
    )
    data = iter(given)
    for step in build_chain(steps, "en", tmp_path / "rejects", tmp_path / "tallies"):
        data = step.run(data, 0, 1)
    kept = list(Decide(tuple(step.name for step in steps), document_id).run(data))
    assert [document.text for document in kept] == [
        "x = 1\n",
        "# user1@example.com\nkey = 'REDACTED_AWS_KEY'\n",
        "# SPDX-License-Identifier: mit\nx = 3\n",
    ]
    clean, mail, mit = (json.loads(document.metadata["decisions"]) for document in kept)
    assert "found" not in clean
    assert mail["found"] == {
        "normalise": {"invisible": 1, "line_ends": 2},
        "pii": {"aws_key": 1, "emails": 1},
    }
    assert mit["found"] == {"licence": "header"}
    assert [document.metadata["licence"] for document in kept] == ["MIT"] * 3
    assert kept[1].id == document_id("s", "mail", kept[1].text)  # the id is that of the text as kept
    (reject,) = pq.read_table(tmp_path / "rejects" / "licence").to_pylist()
    assert (reject["origin"], reject["rule"], reject["value"]) == ("gpl", "licence", "GPL-3.0-only (header)")


@pytest.mark.parametrize(
    ("step", "place"),
    [
        ({"normalise": {"mode": "html"}}, "mode"),
        ({"normalise": {"blank_lines": 0}}, "blank_lines"),
        ({"pii": {"phones": True}}, "phones"),
        ({"licence": {"unknown": "ask"}}, "unknown"),
        ({"licence": {"allow": []}}, "allow"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_their_place(step, place):
    with pytest.raises(ValidationError, match=place):
        CHAIN.validate_python([step])
