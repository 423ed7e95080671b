import csv
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.quality.labels import (
    Document,
    Label,
    LabelError,
    adjudicate,
    agreement,
    cohen_kappa,
    label_file,
    match,
    read_labels,
)
from data_pipeline.quality.sampling import Drawn, documents, draw, excerpt, fetch
from data_pipeline.quality.sheets import examine, write_labels, write_sheet
from data_pipeline.quality.taxonomy import load_taxonomy
from tests.data_pipeline.quality_corpus import write_corpus, write_lines

TAXONOMY = load_taxonomy()
DOCUMENT = Document("d1", "web", "pages.jsonl#1")


def label(annotator="ann", kind="human", subdomain="food", id="d1", **scores):
    return Label(
        id=id, annotator=annotator, kind=kind, taxonomy="1", subdomain=subdomain or None, scores=scores
    )


def test_the_bundled_labels_fit_the_bundled_taxonomy_and_hold_no_text():
    labels = read_labels(label_file("nano"), TAXONOMY)
    assert len(labels) >= 300
    assert all(set(found.scores) == set(TAXONOMY.criteria) and found.subdomain for found in labels)
    longest = max(len(line) for line in label_file("nano").read_text().splitlines())
    assert longest < 1000


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"scores": {"depth": 9}}, "depth: score 9 is not in 0..3"),
        ({"scores": {"colour": 1}}, "unknown criterion 'colour'"),
        ({"scores": {"depth": 1.5}}, "scores.depth"),
        ({"scores": {"depth": "much"}}, "scores.depth"),
        ({"subdomain": "cookery"}, "unknown sub-domain 'cookery'"),
        ({"domain": "kitchen"}, "unknown domain 'kitchen'"),
        ({"domain": "arts", "subdomain": "food"}, "'food' is in 'daily_life', not 'arts'"),
        ({"subdomain": "food", "taxonomy": "0"}, "version '0'"),
        ({"subdomain": "food", "id": "", "origin": ""}, "does not say which document"),
        ({"subdomain": "food", "annotator": ""}, "annotator"),
        ({"subdomain": "food", "kind": "robot"}, "kind"),
        ({"subdomain": "food", "mood": "good"}, "mood"),
    ],
)
def test_a_wrong_label_is_refused_with_its_line(tmp_path, row, said):
    good = {"id": "a", "annotator": "ann", "taxonomy": "1", "scores": {"depth": 1}}
    path = write_lines(tmp_path / "labels.jsonl", [good, {**good, **row}])
    with pytest.raises(LabelError, match="1 problems") as caught:
        read_labels(path, TAXONOMY)
    assert said in str(caught.value)
    assert "line 2" in str(caught.value)


def test_broken_lines_are_all_listed(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": \n[1]\n' + "nonsense\n" * 40)
    with pytest.raises(LabelError, match="42 problems") as caught:
        read_labels(path, TAXONOMY)
    assert "and 22 more" in str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels(path, TAXONOMY)


def test_a_missing_label_file_is_named(tmp_path):
    for name in ("nowhere", str(tmp_path / "none.csv")):
        with pytest.raises(LabelError, match="there is no file"):
            label_file(name)


def test_labels_find_documents_by_id_then_by_origin():
    known = [
        Document("d1", "web", "o#1"),
        Document("d2", "web", "o#2"),
        Document("d3", "news", "o#2"),
        Document("d4", "web", "o#4"),
    ]
    base = {"annotator": "ann", "taxonomy": "1", "subdomain": "food"}
    by_id = Label(id="d1", **base)
    stale_id = Label(id="gone", origin="o#4", **base)
    ambiguous = Label(origin="o#2", **base)
    with_source = Label(origin="o#2", source="news", **base)
    nowhere = Label(origin="o#9", **base)
    found = match([by_id, stale_id, ambiguous, with_source, nowhere], known)
    assert set(found.by_document) == {"d1", "d4", "d3"}
    assert found.unknown == [ambiguous, nowhere]


def test_a_later_line_corrects_an_earlier_one():
    found = match([label(depth=1), label(depth=3), label("other", depth=2)], [DOCUMENT])
    assert found.replaced == 1
    assert [entry.scores["depth"] for entry in found.by_document["d1"]] == [3, 2]


def test_people_outrank_models_and_adjudicators_everyone():
    given_labels = [
        label("robot", "model", "law", depth=0),
        label("ann", depth=2),
        label("bob", subdomain="travel", depth=3),
        label("cid", subdomain="travel", depth=3),
    ]
    said = adjudicate(DOCUMENT, given_labels, TAXONOMY)
    assert (said.subdomain, said.domain, said.scores["depth"]) == ("travel", "daily_life", 3)
    assert "robot" not in said.annotators
    boss = adjudicate(DOCUMENT, given_labels, TAXONOMY, ("nobody", "robot", "ann"))
    assert (boss.subdomain, boss.scores["depth"], boss.kind) == ("law", 0, "model")


def test_an_even_split_gives_a_half_and_the_order_of_labels_does_not_matter():
    pair = [label("bob", subdomain="travel", depth=3), label("ann", depth=2, fluency=1)]
    first, second = (adjudicate(DOCUMENT, order, TAXONOMY) for order in (pair, pair[::-1]))
    assert first == second
    assert first.scores == {"fluency": 1.0, "depth": 2.5}
    assert first.subdomain == "food"  # a tie: ann comes first in the alphabet


def test_a_subdomain_never_contradicts_the_domain_that_won():
    votes = [
        label("a", subdomain="food"),
        label("b", subdomain="home"),
        label("c", subdomain="law"),
        label("d", subdomain="law"),
        label("e", subdomain="sport"),
    ]
    said = adjudicate(DOCUMENT, votes, TAXONOMY)
    assert said.domain == "daily_life"
    assert TAXONOMY.domain_of[said.subdomain] == "daily_life"


def test_kappa_of_a_worked_example():
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([(1, 1), (1, 1)]) is None
    assert cohen_kappa([(0, 0), (3, 3)], weighted=True) == 1
    assert cohen_kappa([(0, 3), (3, 0)], weighted=True) == -1


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1))
def test_on_two_values_weights_change_nothing(pairs):
    assert cohen_kappa(pairs, weighted=True) == pytest.approx(cohen_kappa(pairs))


def test_agreement_counts_only_what_both_answered():
    labels = [label("ann", id=f"d{i}", depth=i % 3) for i in range(4)]
    labels += [label("bob", id=f"d{i}", depth=i % 3, fluency=1) for i in range(1, 5)]
    found = match(labels, [Document(f"d{i}", "web", f"o#{i}") for i in range(5)])
    (pair,) = agreement(found, TAXONOMY)
    assert (pair["annotators"], pair["documents"]) == (["ann", "bob"], 3)
    assert pair["questions"]["depth"] == {"n": 3, "kappa": 1.0}
    assert "fluency" not in pair["questions"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_sheet_comes_back_as_labels(tmp_path, suffix):
    write_corpus(tmp_path, {"pages": 40})
    sample = draw(tmp_path, 8, 0)
    sheet = tmp_path / f"sheet.{suffix}"
    write_sheet(sheet, sample, TAXONOMY, "ann", 200)
    assert read_labels(sheet, TAXONOMY) == []  # nobody has filled it in
    if suffix == "csv":
        rows = list(csv.DictReader(sheet.read_text().splitlines(keepends=True)))
        assert [row["text"] for row in rows] == [excerpt(drawn.text, 200) for drawn in sample]
        rows[2] |= {"subdomain": "food", "depth": "2"}
        with open(sheet, "w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        rows = [json.loads(line) for line in sheet.read_text().splitlines()]
        rows[2]["subdomain"] = "food"
        rows[2]["scores"]["depth"] = 2
        write_lines(sheet, rows)
    (found,) = read_labels(sheet, TAXONOMY)
    assert (found.subdomain, found.scores, found.annotator) == ("food", {"depth": 2}, "ann")
    said = examine([sheet], tmp_path, TAXONOMY)
    assert (said["labels"], said["documents"], said["unknown"]) == (1, 1, [])
    with pytest.raises(LabelError, match="there already"):
        write_sheet(sheet, sample, TAXONOMY, "ann", 200)


def test_bad_cells_of_a_csv_are_named(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_text("id,annotator,taxonomy,depth\na,ann,1,3\nb,ann,1,7\nc,ann,1,x\nd,ann\n")
    with pytest.raises(LabelError, match="3 problems") as caught:
        read_labels(path, TAXONOMY)
    for said in ("line 3: depth: score 7", "line 4: scores.depth", "line 5: it has not as many cells"):
        assert said in str(caught.value)


def test_a_cell_that_a_csv_cannot_hold_is_named(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_text("id,annotator,taxonomy,text\na,ann,1," + "x" * 200_000 + "\n")
    with pytest.raises(LabelError, match="line 2: not CSV: field larger than field limit"):
        read_labels(path, TAXONOMY)


def test_a_text_is_no_formula_to_a_spreadsheet(tmp_path):
    texts = ["=HYPERLINK(A1)", "+1", "-1", "@SUM(A1)", "\t=1", "plain = text"]
    sample = [Drawn(Document(f"d{number}", "web", "o"), text) for number, text in enumerate(texts)]
    write_sheet(tmp_path / "sheet.csv", sample, TAXONOMY, "ann", 200)
    with open(tmp_path / "sheet.csv", newline="") as handle:
        shown = [row["text"] for row in csv.DictReader(handle)]
    assert shown == [f"'{text}" for text in texts[:-1]] + texts[-1:]


def test_written_labels_are_read_back(tmp_path):
    labels = [label(depth=1), label("bob", "model", "", id="d2", fluency=0)]
    write_labels(tmp_path / "out.jsonl", labels)
    assert read_labels(tmp_path / "out.jsonl", TAXONOMY) == labels


def test_a_draw_is_even_deterministic_and_without_validation_documents(tmp_path):
    write_corpus(tmp_path, {"many": 400, "few": 12})
    sample = draw(tmp_path, 60, 7)
    assert sample == draw(tmp_path, 60, 7)
    assert [d.document.id for d in sample] != [d.document.id for d in draw(tmp_path, 60, 8)]
    assert len(sample) == 60
    held_out = {f"{name}-{n:05d}" for name in ("many", "few") for n in range(0, 400, 20)}
    assert not held_out & {d.document.id for d in sample}
    assert Counter(d.document.source for d in sample)["few"] == 11  # all it has
    assert {d.document.id for d in draw(tmp_path, 30, 7)} <= {d.document.id for d in sample}
    skipped = draw(tmp_path, 400, 7, frozenset(d.document.id for d in sample))
    assert not {d.document.id for d in skipped} & {d.document.id for d in sample}
    assert len(draw(tmp_path, 10_000, 7)) == 412 - 21


def test_a_draw_does_not_depend_on_how_documents_lie_in_files(tmp_path):
    write_corpus(tmp_path / "one", {"pages": 90})
    write_corpus(tmp_path / "three", {"pages": 90}, files=3)
    assert draw(tmp_path / "one", 20, 0) == draw(tmp_path / "three", 20, 0)
    assert list(documents(tmp_path / "one")) == list(documents(tmp_path / "three"))
    assert [d.document.id for d in fetch(tmp_path / "three", {"pages-00003"})] == ["pages-00003"]


@given(st.text(max_size=2000), st.integers(200, 800))
def test_an_excerpt_is_short_and_shows_both_ends(text, limit):
    cut = excerpt(text, limit)
    if len(text) <= limit:
        assert cut == text
    else:
        assert len(cut) <= limit + 2 * len("\n[...]\n")
        assert text.startswith(cut.split("\n[...]\n")[0])
        assert text.strip().endswith(cut.split("\n[...]\n")[-1])
