import hashlib
import json
import random
import re
import unicodedata

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.cleaning import ngrams
from data_pipeline.cleaning.decontaminate import HITS, Decontaminate, read_hits, write_index
from data_pipeline.cleaning.evaluation_build import build
from data_pipeline.cleaning.evaluation_index import EvaluationIndex, IndexMismatch, load
from data_pipeline.cleaning.records import RejectWriter
from data_pipeline.config.decontamination import DecontaminationConfig
from stemma.core.errors import DamagedError

CONFIG = DecontaminationConfig()
SMALL = DecontaminationConfig(n=4, min_n=3, template_items=2)
VOCABULARY = [*(f"w{number}" for number in range(30)), *map(str, range(10))]


def plain_words(text: str) -> list[str]:
    """What a word is, written without numpy: for texts in scripts with spaces."""
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", text.lower())


def grams(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def prose(seed: int, words: int) -> list[str]:
    """Words without any accidental 13-gram in common between seeds."""
    return [f"{random.Random(seed * 10_000 + i).choice(VOCABULARY)}{seed}" for i in range(words)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World! It's 3.14, isn’t it?", "hello world it s 3 14 isn t it"),
        ("Ｃafé CAFE\u0301 nai\u0308ve", "cafe cafe naive"),
        ("so\u00adft zero\u200bwidth", "soft zerowidth"),
        ("snake_case x**2+y_i \\frac{a}{b}", "snake case x 2 y i frac a b"),
        ("中文字abc，日本", "中 文 字 abc 日 本"),
        ("हिन्दी में", "हिनदी में"),
        ("한국어 텍스트", "한국어 텍스트"),
        ("𝐀𝟏 ²", "a1 2"),
        ("", ""),
        ("\ud800 x", "x"),
    ],
)
def test_words(text, words):
    split = ngrams.split(text)
    assert split.text(0, len(split)) == words


@given(st.text(alphabet="aZ9 \n.,_-'()éÉñÅüßøЖΩ\u0301\u00ad\u200d²ﬁ", max_size=60))
@settings(max_examples=300)
def test_words_are_those_of_the_plain_definition(text):
    text = text.replace("ﬁ", "")  # folds to two letters in the plain definition
    split = ngrams.split(text)
    assert [split.text(i, i + 1) for i in range(len(split))] == plain_words(text)
    assert [plain_words(text[start:end]) for start, end in zip(split.start, split.end)] == [
        [word] for word in plain_words(text)
    ]


def test_hashes_of_equal_grams_are_equal_and_of_others_are_not():
    words = ngrams.split("a b c d a b c e " * 50 + "x " * 30)
    hashes = ngrams.word_hashes(words)
    for n in (1, 2, 3, 13):
        table: dict[int, str] = {}
        for i, value in enumerate(ngrams.gram_hashes(hashes, n).tolist()):
            assert table.setdefault(value, words.text(i, i + n)) == words.text(i, i + n)
        assert len(set(table.values())) == len(table)
    assert len(ngrams.gram_hashes(hashes[:5], 6)) == 0


@st.composite
def planted(draw):
    """Items, and a document with pieces of some of them between words of its own."""
    rng = random.Random(draw(st.integers(0, 10**9)))
    items = [
        [rng.choice(VOCABULARY) for _ in range(rng.randint(1, 40))] for _ in range(draw(st.integers(1, 8)))
    ]
    document: list[str] = []
    for _ in range(draw(st.integers(0, 5))):
        document += [rng.choice(VOCABULARY) for _ in range(rng.randint(0, 20))]
        item = rng.choice(items)
        start = rng.randrange(len(item))
        document += item[start : start + rng.randint(1, 25)]
    dress = [
        lambda w: w,
        str.upper,
        lambda w: f"({w}),",
        lambda w: f"**{w}**",
        lambda w: w.replace("w", "ｗ"),
    ]
    return items, " ".join(rng.choice(dress)(word) for word in document)


@given(planted(), st.sampled_from([(13, 8), (5, 3), (4, 4)]))
@settings(max_examples=300, deadline=None)
def test_exactly_the_shared_grams_are_found(case, lengths):
    """Against sets of n-grams made in plain Python: nothing shared is missed, nothing else is found."""
    items, text = case
    n, min_n = lengths
    config = DecontaminationConfig(n=n, min_n=min_n, template_items=1_000)
    index = build([("e", f"{number:03d}", " ".join(item)) for number, item in enumerate(items)], config)
    names = {number: int(name) for number, (_, name) in enumerate(index.names)}
    found: dict[int, set[tuple[str, ...]]] = {}
    for overlap in index.overlaps(text):
        shared = plain_words(text[overlap.start : overlap.end])
        of_item = plain_words(index.item(overlap.item).text[overlap.item_start : overlap.item_end])
        assert shared == of_item
        assert len(shared) == overlap.words >= overlap.n
        found.setdefault(names[overlap.item], set()).update(grams(shared, overlap.n))
        length = min(n, len(items[names[overlap.item]]))
        of_all = grams(items[names[overlap.item]], length)
        assert overlap.share == pytest.approx(len(of_all & grams(plain_words(text), length)) / len(of_all))
    unchecked = []
    for number, item in enumerate(items):
        length = min(n, len(item))
        of_item = grams(item, length) if length >= min_n else set()
        own = {gram for gram in of_item if len({w for w in gram if not w.isdigit()}) >= 3}
        shared = of_item & grams(plain_words(text), length)
        counts = own and (shared & own or len(shared) >= 0.8 * len(of_item))
        assert found.get(number, set()) == (shared if counts else set())
        unchecked += [] if own else [f"{number:03d}"]
    assert index.sources["e"].unchecked == unchecked


@given(st.lists(planted(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_texts_together_give_what_each_gives_alone(cases):
    index = build(
        [("e", str(k), " ".join(item)) for items, _ in cases for k, item in enumerate(items)], SMALL
    )
    texts = [text for _, text in cases]
    assert list(index.overlaps_of([*texts, "", *texts])) == [
        index.overlaps(text) for text in [*texts, "", *texts]
    ]


def test_equal_hashes_of_different_words_are_no_hit(monkeypatch):
    index = build([("e", "0", " ".join(prose(1, 20)))], CONFIG)

    def everything_collides(self, found):
        places = np.indices((len(found), len(self.hashes))).reshape(2, -1)
        return places[0], places[1]

    monkeypatch.setattr(EvaluationIndex, "_look_up", everything_collides)
    assert index.overlaps(" ".join(prose(2, 400))) == []
    assert index.overlaps(" ".join(prose(1, 20)))


def found_in(index, text):
    return {index.names[overlap.item] for overlap in index.overlaps(text)}


def test_what_many_items_share_is_template_and_listed():
    prompt = " ".join(prose(1, 20))
    items = [("quiz", str(k), f"{prompt} {' '.join(prose(100 + k, 30))}") for k in range(11)]
    index = build([*items, ("other", "0", f"{prompt} {' '.join(prose(50, 5))}")], CONFIG)
    assert [count for _, count in index.sources["quiz"].templates] == [11] * 8
    assert index.sources["quiz"].templates[0][0] in prompt
    assert index.sources["other"].templates == []
    # the prompt alone is no sign of the quiz; the whole of one of its items, or its own words, are
    assert {index.item(o.item).source for o in index.overlaps(f"see {prompt} there")} == {"other"}
    assert {
        index.item(o.item).name for o in index.overlaps(items[3][2]) if index.item(o.item).source == "quiz"
    } == {"3"}
    own = " ".join(prose(107, 13))
    assert [(index.item(o.item).name, o.words) for o in index.overlaps(own)] == [("7", 13)]
    # with ten items it is not yet a template
    assert build(items[:10], CONFIG).sources["quiz"].templates == []


def test_a_passage_that_many_questions_are_about_is_found():
    passage = " ".join(prose(1, 200))
    items = [("reading", str(k), f"{passage} {' '.join(prose(100 + k, 12))}") for k in range(30)]
    index = build(items, CONFIG)
    assert len(index.sources["reading"].templates) == 188
    assert len({o.item for o in index.overlaps(f"as we read: {passage}")}) == 30
    assert index.overlaps(" ".join(prose(1, 150))) == []  # but not for a part of it


def test_numbers_and_repetitions_are_no_sign_by_themselves():
    zeros, code = "0, " * 60, "for i in range(10): total = total + row[i] * column[i]; print(total)"
    index = build([("code", "0", f"{code}\n[{zeros}]\n{', '.join(map(str, range(30)))}")], CONFIG)
    assert index.sources["code"].checked == 1
    assert index.overlaps(f"weights = [{zeros * 200}, {list(range(500))}]") == []
    assert [overlap.words for overlap in index.overlaps(f"def f():\n    {code}")] == [13]
    assert build([("code", "1", zeros)], CONFIG).sources["code"].unchecked == ["1"]


def test_a_cut_in_a_script_without_spaces_takes_its_window_and_not_the_page(tmp_path):
    rng = random.Random(0)
    own, item = ("".join(chr(rng.randrange(0x4E00, 0x9F00)) for _ in range(length)) for length in (2_000, 40))
    config = DecontaminationConfig(policy="remove", window=20, min_piece=10)
    kept, rejects, _ = run(tmp_path, config, [("exam", "0", item)], [own[:1000] + item + own[1000:]])
    assert [document.text for document in kept] == [own[:980], own[1020:]]
    assert rejects == []


def test_items_that_are_all_template_are_unchecked():
    text = " ".join(prose(1, 15))
    index = build([("quiz", str(k), text) for k in range(12)], CONFIG)
    assert index.sources["quiz"].checked == 0
    assert len(index.sources["quiz"].unchecked) == 12
    assert index.overlaps(text) == []


def test_the_file_does_not_depend_on_the_order_and_is_mapped(tmp_path):
    items = [("a", str(k), " ".join(prose(k, 5 + 3 * k))) for k in range(12)] + [
        ("b", "é", "Ünï größer ça " * 3)
    ]
    report = write_index(items, CONFIG, tmp_path / "one")
    write_index(reversed(items), CONFIG, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert report["a"]["items"] == 12
    assert report["a"]["unchecked"] == ["0"]
    assert report["b"] == {"items": 1, "checked": 1, "unchecked": [], "templates": []}
    index = load(tmp_path / "one", CONFIG)
    assert not index.hashes.flags.owndata
    for source, name, text in items[1:]:
        found = index.overlaps(f"before {text} after")
        assert (source, name, text) in [index.item(overlap.item) for overlap in found]
    with pytest.raises(IndexMismatch, match="n=13"):
        load(tmp_path / "one", DecontaminationConfig(n=12))
    empty = write_index([], CONFIG, tmp_path / "none")
    assert empty == {}
    assert load(tmp_path / "none").overlaps("some text " * 50) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing"])
def test_a_damaged_index_is_refused(tmp_path, damage):
    path = tmp_path / "index"
    write_index([("a", "0", " ".join(prose(1, 30)))], CONFIG, path)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": path.read_bytes()[:-40], "empty": b"", "text": b"not an index at all" * 9}[damage]
        )
    with pytest.raises(DamagedError, match="index"):
        load(path)


def documents(*texts, source="web"):
    return [
        Document(
            text,
            hashlib.sha256(text.encode()).hexdigest()[:20],
            metadata={"source": source, "origin": f"o{k}"},
        )
        for k, text in enumerate(texts)
    ]


def run(tmp_path, config, items, texts):
    write_index(items, config, tmp_path / "index")
    step = Decontaminate(tmp_path / "index", config, tmp_path / "hits", RejectWriter(tmp_path / "rejects"))
    kept = list(step.run(iter(documents(*texts)), 3, 8))
    rejects = [
        row for path in sorted((tmp_path / "rejects").glob("*")) for row in pq.read_table(path).to_pylist()
    ]
    return kept, rejects, read_hits(tmp_path / "hits")


ITEM = " ".join(prose(1, 40))
CLEAN = " ".join(prose(2, 300))


def test_contaminated_documents_are_rejected_and_listed_with_both_texts(tmp_path):
    shared = " ".join(prose(1, 40)[5:22])
    dirty = f"{CLEAN[:500]} {shared.upper()}! {CLEAN[500:]}"
    kept, rejects, hits = run(tmp_path, CONFIG, [("exam", "q7", ITEM)], [CLEAN, dirty, "short"])
    assert [document.text for document in kept] == [CLEAN, "short"]
    (reject,) = rejects
    assert (reject["text"], reject["rule"]) == (dirty, "contaminated")
    assert reject["value"] == "exam q7: 17 words, 18% of the item"
    (hit,) = hits.to_pylist()
    assert hits.schema == HITS
    assert (hit["id"], hit["source"], hit["origin"], hit["rule"]) == (
        reject["id"],
        "web",
        "o1",
        "contaminated",
    )
    assert (hit["n"], hit["words"], hit["evaluation_source"], hit["evaluation_item"]) == (
        13,
        17,
        "exam",
        "q7",
    )
    assert hit["text"] == shared.upper()
    assert shared.upper() in hit["document_excerpt"]
    assert hit["document_excerpt"] in dirty
    assert shared in hit["evaluation_excerpt"]
    assert len(hit["document_excerpt"]) == len(shared) + 400


def test_shared_text_is_cut_out_with_a_window_and_the_pieces_part(tmp_path):
    config = DecontaminationConfig(policy="remove", window=50, min_piece=100)
    dirty = f"{CLEAN[:600]} {ITEM} {CLEAN[600:]}"
    kept, rejects, hits = run(tmp_path, config, [("exam", "q7", ITEM)], [dirty])
    assert rejects == []
    assert [document.metadata["origin"] for document in kept] == ["o0.cut0", "o0.cut1"]
    assert kept[0].text == dirty[: len(kept[0].text)]
    assert kept[1].text == dirty[-len(kept[1].text) :]
    assert 490 <= len(kept[0].text) <= 552
    assert not set(kept[0].text.split()) - set(dirty.split())  # no word is cut in two
    assert set(prose(1, 40)).isdisjoint(" ".join(document.text for document in kept).split())
    removed = len(dirty) - sum(len(document.text) for document in kept)
    found = kept[0].metadata["found"]["decontaminate"]
    assert found["spans"] == 1
    assert 0 <= removed - found["characters"] <= 2  # and the spaces at the cuts
    assert hits["rule"].to_pylist() == ["contaminated_span"]
    # nothing is left of it to find
    assert load(tmp_path / "index").overlaps(" ".join(document.text for document in kept)) == []


def test_what_is_cut_too_often_or_to_nothing_is_rejected(tmp_path):
    config = DecontaminationConfig(policy="remove", window=0, min_piece=100, max_spans=2)
    often = CLEAN.join([ITEM] * 4)
    kept, rejects, hits = run(tmp_path, config, [("exam", "q7", ITEM)], [often, f"short {ITEM} short"])
    assert kept == []
    assert [reject["rule"] for reject in rejects] == ["contaminated"] * 2
    assert set(hits["rule"].to_pylist()) == {"contaminated"}


def test_what_is_below_the_least_overlap_is_listed_and_kept(tmp_path):
    config = DecontaminationConfig(min_overlap=0.5)
    some, most = (f"{CLEAN} {' '.join(prose(1, 40)[:words])}" for words in (15, 30))
    kept, rejects, hits = run(tmp_path, config, [("exam", "q7", ITEM)], [some, most])
    assert [document.text for document in kept] == [some]
    assert [reject["text"] for reject in rejects] == [most]
    assert sorted(hits["rule"].to_pylist()) == ["below_min_overlap", "contaminated"]


def test_the_list_is_the_same_however_documents_are_spread_over_ranks(tmp_path):
    items = [("exam", str(k), " ".join(prose(10 + k, 30))) for k in range(5)]
    texts = [f"{CLEAN} {' '.join(prose(10 + k % 5, 30)[k % 7 :])} {k}" for k in range(20)]
    write_index(items, CONFIG, tmp_path / "index")
    tables = []
    for ranks in (1, 3):
        kept = []
        for rank in range(ranks):
            writer = RejectWriter(tmp_path / f"rejects{ranks}")
            step = Decontaminate(tmp_path / "index", CONFIG, tmp_path / f"hits{ranks}", writer)
            kept += list(step.run(iter(documents(*texts)[rank::ranks]), rank, ranks))
        assert kept == []
        tables.append(read_hits(tmp_path / f"hits{ranks}").drop(["origin"]).to_pylist())
    assert tables[0] == tables[1]
    assert len(tables[0]) == 20
    assert read_hits(tmp_path / "nowhere").num_rows == 0
    (tmp_path / "chains").mkdir()
    (tmp_path / "hits1").rename(tmp_path / "chains" / "prose.en")
    earlier = tmp_path / "hits3" / "00001.parquet"
    both = read_hits(tmp_path / "chains", earlier)
    assert both.num_rows == 20 + pq.read_metadata(earlier).num_rows > 20


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"min_n \(14\) is above n \(13\)"):
        DecontaminationConfig(min_n=14)
    json.dumps(CONFIG.model_dump())
