"""The figures of a report are right."""

import json
import unicodedata
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer.report.samples import nfc_encoder, row_of, texts
from tokenizer.errors import TextError
from tokenizer.export.hf import to_tokenizers
from tokenizer.learning.sentencepiece_backend import carry_over, train_model
from tokenizer.report import measure as measure_module
from tokenizer.report.encoders import NamedEncoder, from_tiktoken, from_tokenizers
from tokenizer.report.entries import describe, script, stages
from tokenizer.report.examples import FIXED, probes
from tokenizer.report.measure import MeasuredText, bootstrap, measure
from tokenizer.report.spans import KINDS, pieces, spans
from tokenizer.splitting.cascade import PATTERN
from tokenizer.vocabulary import Entry, Vocabulary


def test_two_encoders_of_one_vocabulary_have_the_same_figures(
    ours: NamedEncoder, vocabulary: Vocabulary
) -> None:
    exported = from_tokenizers("hf", "HF", to_tokenizers(vocabulary))
    found = measure([ours, exported], texts())
    for row in found["groups"]:
        assert row["by"]["ours"] == row["by"]["hf"]
        assert row["ratios"]["hf"]["ratio"] == 1
        assert row["by"]["ours"]["ceiling"] >= row["by"]["ours"]["bytes_per_token"] > 1
    left, right = found["tokenizers"]
    assert left["entries"] == right["entries"] + 16
    assert {**left, "name": "", "title": "", "entries": 0} == {**right, "name": "", "title": "", "entries": 0}


def test_figures_are_those_counted_by_hand(ours: NamedEncoder, bytewise: NamedEncoder) -> None:
    documents = [
        MeasuredText("s", "d", "en", ("the model", "型 12"), "1"),
        MeasuredText("s", "d", "zh", (), "2"),
    ]
    found = measure([ours, bytewise], documents)
    row = found["groups"][0]
    assert (row["documents"], row["bytes"], row["characters"]) == (2, 15, 13)
    # th|e| model|型| |1|2; pre-tokens the| model|型| |1|2
    assert row["by"]["ours"]["tokens"] == 7
    assert row["by"]["ours"]["ceiling"] == round(15 / 6, 4)
    assert row["by"]["bytes"]["tokens"] == 15
    assert row["ratios"]["bytes"]["ratio"] == round(15 / 7, 4)
    assert row["ratios"]["bytes"]["ceiling_ratio"] == round(15 / 6, 4)
    assert row["spans"]["words"] == {"count": 2, "characters": 8}
    # a space joined to a word is no cut within the word
    assert row["by"]["ours"]["fertility"] == {"words": 1.5, "han": 1.0, "digits": 1.0}
    assert row["by"]["ours"]["whole"] == {"words": 0.5, "han": 1.0, "digits": 0.0}
    assert row["by"]["bytes"]["fertility"] == {"words": 4.0, "han": 3.0, "digits": 1.0}
    assert row_of(found, "language", "zh")["by"]["ours"]["bytes_per_token"] == 0
    used = next(about for about in found["tokenizers"] if about["name"] == "ours")
    assert (used["used"], used["learned"]) == (7, len(ours.token_bytes))


def test_groups_add_up_and_batches_do_not_matter(
    report: dict[str, Any], ours: NamedEncoder, bytewise: NamedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = report["groups"][0]
    for group in ("domain", "language", "source"):
        rows = [row for row in report["groups"] if row["group"] == group]
        for key in ("documents", "bytes", "characters"):
            assert sum(row[key] for row in rows) == whole[key]
        assert sum(row["by"]["ours"]["tokens"] for row in rows) == whole["by"]["ours"]["tokens"]
    assert row_of(report, "source", "repo")["held_out"] is True
    assert row_of(report, "domain", "web")["held_out"] is False
    assert {**row_of(report, "source", "repo"), "group": "", "name": ""} == {
        **row_of(report, "held_out", "held-out sources"),
        "group": "",
        "name": "",
    }
    at_once = measure([ours, bytewise], texts())
    monkeypatch.setattr(measure_module, "BATCH_BYTES", 1)
    assert json.dumps(measure([ours, bytewise], texts())) == json.dumps(at_once)


def test_a_normalizer_is_noticed_and_spans_of_what_it_altered_do_not_count(bytewise: NamedEncoder) -> None:
    decomposed = unicodedata.normalize("NFD", "déjà vu")
    documents = [MeasuredText("s", "d", "fr", (text,), text) for text in ("plain text", decomposed)]
    found = measure([nfc_encoder(), bytewise], documents)
    assert [about["altered_documents"] for about in found["tokenizers"]] == [1, 0]
    assert found["groups"][0]["by"]["nfc"]["fertility"] == {"words": 4.5}
    assert found["groups"][0]["by"]["bytes"]["fertility"]["words"] > 4
    assert found["groups"][0]["by"]["nfc"]["tokens"] == 10 + 9


def test_special_tokens_in_a_text_are_text() -> None:
    encoder = nfc_encoder()
    assert b"".join(encoder.token_bytes[index] for index in encoder.encode(["a<|end|>"])[0]) == b"a<|end|>"
    assert (encoder.entries, len(encoder.token_bytes)) == (257, 256)


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff"])
def test_lone_surrogates_are_refused_by_every_encoder(
    text: str, ours: NamedEncoder, bytewise: NamedEncoder
) -> None:
    for encoder in (ours, bytewise, nfc_encoder()):
        with pytest.raises(TextError, match="surrogate"):
            encoder.encode([text])


def test_nothing_to_measure_is_an_error(ours: NamedEncoder) -> None:
    for documents in ([], [MeasuredText("s", "d", "en", ())], [MeasuredText("s", "d", "en", ("",))]):
        with pytest.raises(TextError, match="no text to measure"):
            measure([ours], documents)
    for encoders in ([], [ours, ours]):
        with pytest.raises(ValueError, match="distinct names"):
            measure(encoders, texts())


@given(st.text(alphabet=st.sampled_from("aB é模カ0٣\\frac{}\n\t -😀́")))
def test_spans_are_where_they_say(text: str) -> None:
    data = text.encode()
    for kind, places in spans(text).items():
        shown = [(data[begin:end].decode(), count) for begin, end, count in places.tolist()]
        assert shown == [(match.group(), len(match.group())) for match in KINDS[kind].finditer(text)]


@given(st.data())
def test_pieces_are_the_tokens_that_have_a_part_in_a_span(data: st.DataObject) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=20)))
    ends = np.cumsum(sizes)
    begin = data.draw(st.integers(0, int(ends[-1]) - 1))
    end = data.draw(st.integers(begin + 1, int(ends[-1])))
    expected = sum(last > begin and last - size < end for size, last in zip(sizes, ends))
    assert pieces(ends, np.array([[begin, end, 0]])).tolist() == [expected]


def test_intervals_hold_the_ratio_and_only_where_there_are_documents_enough() -> None:
    random = np.random.default_rng(0)
    ours = random.integers(100, 1000, 3000)
    theirs = (ours * random.normal(1.1, 0.1, 3000)).astype(np.int64)
    low, high = bootstrap(ours, theirs, 0) or (0.0, 0.0)
    assert low < theirs.sum() / ours.sum() < high
    # the standard error of a ratio of sums; the blocks must not change it
    error = np.std(theirs - 1.1 * ours) * np.sqrt(3000) / ours.sum()
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert bootstrap(ours, ours, 0) == (1.0, 1.0)
    assert bootstrap(ours, theirs, 0) == (low, high)
    assert bootstrap(ours[:9], theirs[:9], 0) is None


def test_pre_tokens_are_counted_the_same_by_scanner_engine_and_pattern(
    ours: NamedEncoder, vocabulary: Vocabulary
) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    tried = [*FIXED.values(), *(piece for text in texts() for piece in text.pieces), "", " "]
    counters = [
        from_tokenizers("hf", "HF", to_tokenizers(vocabulary)).pre_tokens,
        from_tiktoken("t", "T", encoding, PATTERN).pre_tokens,
    ]
    assert ours.pre_tokens is not None
    for counter in counters:
        assert counter is not None
        assert counter(tried).tolist() == ours.pre_tokens(tried).tolist()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (b" the", "ascii"),
        ("é".encode(), "latin"),
        ("模型".encode(), "han"),
        ("カ".encode(), "kana"),
        ("模型model".encode(), "mixed"),
        (b"123", "digits"),
        (b"  \n", "spaces"),
        ("→!".encode(), "symbols"),
        ("模".encode()[:2], "parts"),
        ("ქ".encode(), "other"),
    ],
)
def test_scripts(entry: bytes, expected: str) -> None:
    assert script(entry) == expected


def test_entries_are_described(vocabulary: Vocabulary) -> None:
    token_bytes = [*vocabulary.token_bytes, b"", b""]
    used = np.zeros(len(token_bytes), np.int64)
    used[[0, 300 - 44, len(token_bytes) - 1]] = 5  # a byte, the first entry behind the bytes, a special token
    found = describe(token_bytes, used)
    assert (found["learned"], found["used"]) == (len(vocabulary), 2)
    assert found["never_used"] == round(1 - 2 / len(vocabulary), 4)
    assert sum(found["lengths"].values()) == len(vocabulary)
    assert sum(tally["entries"] for tally in found["scripts"].values()) == len(vocabulary)
    assert found["longest_words"][0]["text"] == " model"
    assert found["scripts"]["han"] == {"entries": 3, "used": 0}
    rows = stages(vocabulary, used)
    assert [(row["stage"], row["entries"]) for row in rows] == [("bytes", 256), ("base", 14), ("general", 12)]
    assert [row["used"] for row in rows] == [1, 1, 0]


def test_stages_count_scaffolds_apart() -> None:
    made = Vocabulary().extended([Entry(b"ab", "a", scaffold=True), Entry(b"abc", "a"), Entry(b"cd", "b")])
    used = np.zeros(len(made), np.int64)
    used[256] = 1  # id of abc: the scaffold has none
    last = [(row["stage"], row["entries"], row["scaffolds"], row["used"]) for row in stages(made, used)][1:]
    assert last == [("a", 1, 1, 1), ("b", 1, 0, 0)]


def test_probes(ours: NamedEncoder, bytewise: NamedEncoder) -> None:
    found = probes(ours)
    assert found["latex"]["frac"] == 1
    assert found["latex"]["sqrt"] == 5
    assert found["number"] == 10
    # 4 spaces and a word: the last space goes with the word, three are "  " and " "
    assert found["indentation"][:5] == [1, 2, 2, 3, 2]
    assert probes(bytewise)["indentation"] == list(range(1, 33))


def test_a_sentencepiece_vocabulary_is_measured_without_a_ceiling(ours: NamedEncoder) -> None:
    learned = carry_over(train_model(400, [piece for text in texts() for piece in text.pieces] * 40))
    encoder = from_tokenizers("sentencepiece", "SentencePiece", learned)
    tried = "the  model\n\t模型 ▁ 😀 <0x41>"
    ids = encoder.encode([tried])[0]
    assert b"".join(encoder.token_bytes[index] for index in ids) == tried.encode()
    found = measure([ours, encoder], texts())
    assert [about["altered_documents"] for about in found["tokenizers"]] == [0, 0]
    assert "ceiling" not in found["groups"][0]["by"]["sentencepiece"]
    assert found["tokenizers"][1]["learned"] == 399  # all but <unk>
    assert "ceiling_ratio" not in measure([encoder, ours], texts())["groups"][0]["ratios"]["ours"]
