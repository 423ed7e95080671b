import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from pydantic import TypeAdapter

from data_pipeline.cleaning import chain, filters
from data_pipeline.config.cleaning import Chain
from data_pipeline.sources.read import document_id

PROSE = (
    "The library opened its doors in the spring, and people of the town came to see what it held. "
    "There were shelves of books that nobody had read for years, with maps folded between the pages. "
    "A woman who had worked there since she was young told the visitors where each thing could be found. "
    "They asked her about the flood, and she said that the river had come up to the third step. "
    "After that the council had built a wall, which still stands at the end of the garden today."
)


def documents(*texts: str, language: str = "en") -> list[Document]:
    about = {"source": "s", "origin": "o", "language": language}
    return [Document(text=text, id=str(number), metadata=dict(about)) for number, text in enumerate(texts)]


def run_chain(tmp_path, names, texts):
    data = iter(documents(*texts))
    steps = TypeAdapter(Chain).validate_python(names)
    for step in chain.build_chain(steps, "en", tmp_path / "rejects", tmp_path / "tallies"):
        data = step.run(data, 0, 1)
    kept = list(data)
    rejects = [row for path in sorted((tmp_path / "rejects").rglob("*.parquet")) for row in read(path)]
    return kept, {row["id"]: (row["rule"], row["value"]) for row in rejects}


def read(path):
    return pq.read_table(path).to_pylist()


ALL_PROSE = ("language", "gopher_repetition", "gopher_quality", "c4", "fineweb")


def test_prose_passes_the_prose_chain_and_what_is_none_is_rejected_with_rule_and_value(tmp_path):
    texts = [
        PROSE,
        "Die Bibliothek öffnete im Frühling ihre Türen, und die Leute der Stadt kamen, um sie zu sehen.",
        "Buy now and save. " * 60,
        PROSE[:180],
        PROSE + " {" + PROSE[::-1].replace("{", "") + "}" + PROSE,
    ]
    kept, rejects = run_chain(tmp_path, ALL_PROSE, texts)
    assert [document.id for document in kept] == ["0"]
    assert kept[0].text == PROSE
    assert rejects["1"][0] == "language"
    assert rejects["1"][1].startswith("de ")
    rule, value = rejects["2"]
    assert rule.startswith(("dup", "top"))
    assert float(value) > 0.1
    assert rejects["3"] == ("gopher_short_doc", "35")
    assert rejects["4"][0]
    assert len(kept) + len(rejects) == len(texts)
    assert filters.tallied(tmp_path / "tallies", "language") == {
        "s": (4, sum(len(texts[index].encode()) for index in (0, 2, 3, 4)))
    }
    assert filters.tallied(tmp_path / "tallies", "fineweb") == {"s": (1, len(PROSE))}


def test_splitting_once_changes_no_decision(tmp_path):
    texts = [PROSE, PROSE * 3, PROSE[:180], PROSE.replace(". ", " # # # # # # # "), PROSE.replace("the", "a")]
    kept, _ = run_chain(tmp_path, ("gopher_repetition", "gopher_quality"), texts)
    repetition, quality = GopherRepetitionFilter(), GopherQualityFilter()
    stock = [d.id for d in documents(*texts) if repetition.filter(d) is True and quality.filter(d) is True]
    assert stock == ["0", "4"]
    assert [document.id for document in kept] == stock


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x = 1\n", "too_short"),
        ("def f():\n    return 1\n" * 20 + "data = '" + "ab" * 600 + "'\n", "long_line"),
        (("value = " + "a + " * 30 + "1\n") * 5, "long_mean_line"),
        ("((((((((((\n" * 30 + "x\n", "few_alphanumeric"),
        ("def f(x):\n    return x + 1\n" * 10, None),
    ],
)
def test_code_is_judged_by_its_lines(tmp_path, text, rule):
    kept, rejects = run_chain(tmp_path, ("source_code",), [text])
    assert [reason for reason, _ in rejects.values()] == ([rule] if rule else [])
    assert len(kept) == (rule is None)


def test_every_rule_of_datatrove_has_a_measure():
    """A rule that datatrove renames or adds must not lose its value silently."""
    import inspect
    import re

    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter

    named = set()
    for step in (GopherQualityFilter, GopherRepetitionFilter, C4QualityFilter, FineWebQualityFilter):
        named |= set(re.findall(r'return False, "(\w+)"', inspect.getsource(step.filter)))
    assert named - {"empty"} <= filters.MEASURES.keys()  # an empty text never reaches them
    repeated = "one two three four five. " * 20
    assert filters.measure("top_2_gram", repeated, "en") > 0.2
    assert filters.measure("duplicated_5_n_grams", repeated, "en") > 0.15


def test_the_language_model_comes_with_a_package(tmp_path):
    kept, rejects = run_chain(
        tmp_path, ("language",), [PROSE, "图书馆在春天开放，镇上的人们来看看里面有什么。"]
    )
    assert [document.id for document in kept] == ["0"]
    assert kept[0].metadata["language"] == "en"
    assert rejects["1"][1].startswith("zh ")


def test_decisions_and_the_id_are_those_of_the_text_as_kept():
    (document,) = documents(PROSE)
    document.metadata["language_score"] = 0.98765
    (decided,) = chain.Decide(("language",), document_id).run(iter([document]))
    assert decided.id == document_id("s", "o", PROSE)
    assert decided.metadata["decisions"] == '{"language_score": 0.9877, "passed": ["language"]}'
