import importlib.metadata
import json
import random
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from data_pipeline.cleaning import batches, chain, lines
from data_pipeline.cleaning.c4 import C4
from data_pipeline.cleaning.prose import FineWeb, GopherQuality
from data_pipeline.cleaning.records import tallied
from data_pipeline.cleaning.repetition import GopherRepetition
from data_pipeline.config import cleaning
from data_pipeline.config.cleaning import Chain
from data_pipeline.sources.documents import document_id

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
    assert tallied(tmp_path / "tallies", "language") == {
        "s": (4, sum(len(texts[index].encode()) for index in (0, 2, 3, 4)))
    }
    assert tallied(tmp_path / "tallies", "fineweb") == {"s": (1, len(PROSE))}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x = 1\n", "too_short"),
        ("def f():\n    return 1\n" * 20 + "data = '" + "ab" * 600 + "'\n", "long_line"),
        (("value = " + "a + " * 30 + "1\n") * 5, "long_mean_line"),
        ("((((((((((\n" * 30 + "x\n", "few_alphanumeric"),
        ("".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(10)), None),
    ],
)
def test_code_is_judged_by_its_lines(tmp_path, text, rule):
    kept, rejects = run_chain(tmp_path, ("source_code",), [text])
    assert [reason for reason, _ in rejects.values()] == ([rule] if rule else [])
    assert len(kept) == (rule is None)


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


# --- stock datatrove is the oracle ------------------------------------------------------------------------

SENTENCES = [sentence + "." for sentence in PROSE.split(".") if sentence] + [
    "See the terms of use [1] for more.",
    "This page uses cookies.",
    "Please enable java[2]script.",
    "A [citation needed] here. And [edit] there!  [3].",
    "lorem ip[4]sum",
    "• one thing",
    "- another",
    "And so on ...",
    "To be continued…",
    'He said: "No."  (She had not.)  .',
    "What?! Well... yes.\t. e.g. this",
    "{ brace",
    "|---|--|-|",
    "|--|---|-|",
    "# title #",
    "x" * 1001,
    "10 20 30 40",
    "İstanbul'da Größe 日本語。そう。",
]
SEPARATORS = [" ", " ", " ", "\n", "\n", "\n\n", "\n\n\n", "  ", " \n ", "\u2028", "\r\n"]


def real_texts(number: int) -> list[str]:
    """Descriptions of installed packages and modules of the standard library."""
    distributions = sorted(importlib.metadata.distributions(), key=lambda found: found.metadata["Name"])
    descriptions = (str(found.metadata.get_payload() or "") for found in distributions)
    library = sorted(Path(json.__file__).parent.parent.glob("*.py"))[: number // 4]
    texts = islice((text[:8_000] for text in descriptions if len(text) > 500), number)
    return [*texts, *(path.read_text(encoding="utf-8", errors="replace")[:8_000] for path in library)]


def made_text(seed: int) -> str:
    rng = random.Random(seed)
    few = rng.sample(SENTENCES, rng.randint(1, len(SENTENCES)))
    if rng.random() < 0.4:
        few = [sentence for sentence in few if "{" not in sentence and "lorem" not in sentence] or few
    words = [word for sentence in few for word in sentence.split(" ")]
    if rng.random() < 0.3:  # words in any order, some of them again and again
        return "".join(
            rng.choice(words) + rng.choice([" ", " ", " ", "\n", ""]) for _ in range(rng.randint(1, 400))
        )
    return "".join(rng.choice(few) + rng.choice(SEPARATORS) for _ in range(rng.randint(1, 40)))


STRICT = {
    "repetition": {
        "top_n_grams": ((3, 0.02), (2, 0.05), (1, 0.2)),
        "dup_n_grams": ((7, 0.02), (5, 0.05), (1, 0.9)),
    },
    "quality": {
        "min_doc_words": 5,
        "max_doc_words": 150,
        "max_bullet_lines_ratio": 0.1,
        "stop_words": ("and", "x"),
    },
    "all lines": {"min_num_sentences": -1, "min_words_per_line": -1, "max_word_length": -1},
    "few lines": {"min_num_sentences": 12, "min_words_per_line": 1, "max_word_length": 20},
    "sentences": {"split_paragraph": False, "remove_citations": False, "filter_curly_bracket": False},
    "fineweb": {
        "line_punct_thr": 0.6,
        "line_punct_exclude_zero": True,
        "short_line_thr": 0.4,
        "new_line_ratio": 0.1,
    },
}
PAIRS = {
    "repetition": (GopherRepetition(), GopherRepetitionFilter()),
    "repetition, strict": (
        GopherRepetition(options=cleaning.GopherRepetition(**STRICT["repetition"])),
        GopherRepetitionFilter(**STRICT["repetition"]),
    ),
    "quality": (GopherQuality(), GopherQualityFilter()),
    "quality, strict": (
        GopherQuality(options=cleaning.GopherQuality(**STRICT["quality"])),
        GopherQualityFilter(**STRICT["quality"]),
    ),
    "c4": (C4(), C4QualityFilter(filter_no_terminal_punct=False)),
    "fineweb": (FineWeb(), FineWebQualityFilter()),
    "fineweb, strict": (
        FineWeb(options=cleaning.FineWeb(**STRICT["fineweb"])),
        FineWebQualityFilter(**STRICT["fineweb"]),
    ),
}
for kind in ("all lines", "few lines", "sentences"):
    settings_of = {"filter_no_terminal_punct": True} | STRICT[kind]
    PAIRS[f"c4, {kind}"] = (C4(options=cleaning.C4(**settings_of)), C4QualityFilter(**settings_of))


def outcome(step, document: Document):
    """What a stock filter decides, and the text it leaves of what it keeps."""
    try:
        result = step.filter(document)
    except (ZeroDivisionError, ValueError):  # stock divides by the words of a text that has none
        return (False, "empty")
    return (True, document.text) if result is True else result


def compare(name: str, texts: list[str]) -> set[str]:
    ours, stock = PAIRS[name]
    mine = documents(*texts)
    results = ours.filter_batch(mine)
    rules = set()
    for text, document, result, original in zip(texts, mine, results, documents(*texts)):
        expected = outcome(stock, original)
        assert ((True, document.text) if result is True else result) == expected, repr(text)
        if result is not True:
            rules.add(result[1])
            assert document.metadata["value"] not in ("", None)
    return rules


@pytest.mark.parametrize("name", PAIRS)
def test_decisions_rules_and_texts_are_those_of_datatrove_on_real_text(name):
    texts = real_texts(32)
    assert len(texts) > 30
    compare(name, texts)


@pytest.mark.parametrize("name", PAIRS)
def test_decisions_rules_and_texts_are_those_of_datatrove_where_rules_are_met(name):
    rules = compare(name, [made_text(seed) for seed in range(120)] + ["", " ", "\n\n", ".", "a", "IS"])
    assert rules  # none of the comparisons is about nothing


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab .\n-#…"), max_size=300), max_size=6))
def test_decisions_are_those_of_datatrove_on_texts_of_few_characters(texts):
    """Few characters: n-grams that are equal only when words run together, ties of the most frequent."""
    for name in PAIRS:
        compare(name, texts)


def test_a_batch_decides_as_one_document_after_the_other(monkeypatch):
    texts = [made_text(seed) for seed in range(40)]
    together = GopherRepetition().filter_batch(documents(*texts))
    alone = [GopherRepetition().filter(document) for document in documents(*texts)]
    assert together == alone
    monkeypatch.setattr(batches, "BATCH_CHARACTERS", 500)
    sizes = [len(batch) for batch in batches.batches(iter(documents(*texts)))]
    assert sum(sizes) == len(texts)
    assert 1 < max(sizes) < len(texts)


@pytest.mark.parametrize(
    ("step", "text", "rule", "value"),
    [
        (GopherRepetition(), "a b c d. " * 10, "top_2_gram", 0.3333),
        (GopherRepetition(), "one\ntwo\none\none\n", "dup_line_frac", 0.4),
        (GopherRepetition(), "one\n\ntwo\n\none\n\none", "dup_para_frac", 0.5),
        (GopherQuality(), "one two three.", "gopher_short_doc", 3),
        (GopherQuality(), "a b " * 30, "gopher_below_avg_threshold", 1.0),
        (GopherQuality(), "the word # " * 30, "gopher_too_many_hashes", 0.3333),
        (GopherQuality(), "some words here now " * 20, "gopher_enough_stop_words", 0),
        (C4(), "One line of text.\nAnother {} line. And {.", "curly_bracket", 2),
        (C4(), "One line of text. With two sentences.\nno", "too_few_sentences", 2),
        (FineWeb(), "no end here\nThis has one.\n" + "or here and there\n" * 8, "line_punct_ratio", 0.1),
        (FineWeb(), "A line.\nIs short.\nToo.\n" + "x" * 31 + ".", "short_line_ratio", 0.75),
    ],
)  # fmt: skip
def test_the_value_of_a_reject_is_what_its_rule_measured(step, text, rule, value):
    (document,) = documents(text)
    assert step.filter(document) == (False, rule)
    assert document.metadata["value"] == value


def test_our_filters_are_steps_of_a_stock_pipeline(tmp_path):
    (tmp_path / "in").mkdir()
    texts = [PROSE, "too short", PROSE + " {"]
    rows = [json.dumps({"text": text, "id": str(number)}) for number, text in enumerate(texts)]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(rows))
    pipeline = [
        JsonlReader(str(tmp_path / "in")),
        GopherQuality(exclusion_writer=JsonlWriter(str(tmp_path / "short"), compression=None)),
        C4(exclusion_writer=JsonlWriter(str(tmp_path / "bracket"), compression=None)),
        JsonlWriter(str(tmp_path / "out"), compression=None),
    ]
    executor = LocalPipelineExecutor(pipeline, tasks=1, logging_dir=str(tmp_path / "logs"))
    stats = executor._run_for_rank(0)

    def written(folder: str) -> list[dict]:
        return [json.loads(line) for path in (tmp_path / folder).iterdir() for line in path.open()]

    assert [row["id"] for row in written("out")] == ["0"]
    (short,) = written("short")
    assert short["metadata"]["filter_reason"] == "gopher_short_doc"
    assert short["metadata"]["value"] == 2
    assert [row["id"] for row in written("bracket")] == ["2"]
    counted = {step.name: step.stats for step in stats.stats}
    assert counted["🔻 - FILTER: 🥇 Gopher quality"]["dropped_gopher_short_doc"].total == 1


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "path", "message"),
    [
        (["c4", {"fineweb": {"new_lines": 3}}], (1, "fineweb", "new_lines"), "Extra inputs"),
        ([{"fineweb": {"line_punct_thr": 2}}], (0, "fineweb", "line_punct_thr"), "less than or equal to 1"),
        (
            [{"gopher_repetition": {"top_n_grams": [[0, 0.2]]}}],
            (0, "gopher_repetition", "top_n_grams", 0, 0),
            "greater than or equal to 1",
        ),
        (["gopher"], (0,), "'gopher_repetition'"),
        (["c4", "c4"], (), "at most once: c4"),
        ([], (), "at least one step"),
        ([{"c4": {}, "fineweb": {}}], (0,), "not 2 keys"),
        ([{"c4": 5}], (0,), "options of 'c4' are a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_step_is_refused_with_its_path(steps, path, message):
    with pytest.raises(ValidationError) as error:
        TypeAdapter(Chain).validate_python(steps)
    (found,) = error.value.errors()
    assert found["loc"] == path
    assert message in found["msg"]


def test_options_make_a_chain_fit_its_domain(tmp_path):
    short = "The wall of the council still stands, and people have a look at it with joy."
    kept, rejects = run_chain(tmp_path / "a", ("gopher_quality",), [short])
    assert (kept, rejects["0"]) == ([], ("gopher_short_doc", "16"))
    kept, rejects = run_chain(tmp_path / "b", ({"gopher_quality": {"min_doc_words": 10}},), [short])
    assert (len(kept), rejects) == (1, {})


def test_a_chain_survives_its_json_form():
    adapter = TypeAdapter(Chain)
    steps = adapter.validate_python(["language", {"gopher_quality": {"min_doc_words": 30}}, "maths"])
    assert adapter.validate_json(adapter.dump_json(steps)) == steps


def test_every_step_of_the_config_has_a_builder():
    union = cleaning.FilterStep.__origin__
    names = {model.model_fields["name"].default for model in union.__args__}
    assert names == chain.BUILDERS.keys()


# --- code, documentation, mathematics ---------------------------------------------------------------------


def test_code_and_mathematics_are_not_judged_as_prose(tmp_path):
    code = Path(json.decoder.__file__).read_text()
    maths = "Let $f(x)=x^2$. Then\n" + "\n".join(
        rf"\[ \int_0^{{{n}}} f(x)\,dx = \frac{{{n}^3}}{{3}} \]" for n in range(30)
    )
    kept, rejects = run_chain(tmp_path / "prose", ALL_PROSE[1:], [code, maths])
    assert kept == []
    for name, text in (("source_code", code), ("technical", code), ("maths", maths)):
        kept, rejects = run_chain(tmp_path / name, (name,), [text])
        assert (len(kept), rejects) == (1, {}), name


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x = call_of_something(1, 2)\n" * 30, "duplicate_lines"),
        ("key = '" + "QUJD" * 200 + "'\n" + "def f(a, b):\n    return a\n" * 3, "encoded"),
        ("data = [\n" + "    0x1f, 0x2e, 0x3d, 0x4c, 0x5b, 0x6a, 0x79, 0x88, 0x97,\n" * 1 + "]\n" * 40, None),
        ("".join(f"0x{n:02x}, " + ("\n" if n % 16 == 15 else "") for n in range(256)) * 2, "encoded"),
    ],
)
def test_what_a_program_wrote_is_told_by_its_lines(tmp_path, text, rule):
    repeated = 0.5 if rule == "duplicate_lines" else None
    options = {"source_code": {"max_duplicate_lines": repeated, "max_mean_line": 500}}
    _, rejects = run_chain(tmp_path, (options,), [text])
    assert [reason for reason, _ in rejects.values()] == ([rule] if rule else [])


def test_rules_on_lines_can_be_switched_off(tmp_path):
    text = "x = call_of_something(1, 2)\n" * 30
    kept, _ = run_chain(tmp_path, ({"source_code": {"max_duplicate_lines": None}},), [text])
    assert len(kept) == 1


@given(st.text(), st.text(st.characters(max_codepoint=127)))
def test_letters_and_digits_are_counted_alike_in_ascii(any_text, ascii_text):
    for text in (any_text, ascii_text):
        assert lines.alphanumeric(text) == sum(map(str.isalnum, text))
