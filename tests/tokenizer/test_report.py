"""The tokenizer report: its figures are right, its page is safe, and whatever is missing is said."""

import html
import io
import json
import re
import shutil
import tarfile
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from typer.testing import CliRunner

from stemma.cli import app
from stemma.core.artifact import Store
from stemma.core.config import Config
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, sha256_file, write_json
from stemma.core.stage import Stage, Workspace, execute
from tokenizer.config import Anchor
from tokenizer.encoding.encoder import Encoder
from tokenizer.errors import TextError, VocabularyError
from tokenizer.export.hf import save_folder, to_tokenizers
from tokenizer.learning.prune import Pruned
from tokenizer.learning.sentencepiece_backend import carry_over, train_model
from tokenizer.load import byte_characters
from tokenizer.report import anchors as anchors_module
from tokenizer.report import measure as measure_module
from tokenizer.report.anchors import ANCHORS, O200K, Published, load_anchor, load_anchors
from tokenizer.report.cuts import coloured, side_by_side
from tokenizer.report.encoders import NamedEncoder, from_tiktoken, from_tokenizers, from_vocabulary
from tokenizer.report.entries import describe, script, stages
from tokenizer.report.examples import FIXED, probes
from tokenizer.report.measure import MeasuredText, bootstrap, measure
from tokenizer.report.page import report_page
from tokenizer.report.pedigree import pedigree_of, text_of
from tokenizer.report.spans import KINDS, pieces, spans
from tokenizer.report.texts import file_texts, measured_texts, of_unknown_use
from tokenizer.report.write import open_encoder
from tokenizer.specials import END_OF_TEXT
from tokenizer.splitting.cascade import PATTERN
from tokenizer.vocabulary import VOCABULARY_FILE, Entry, Vocabulary

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e"
ENTRIES = {
    "base": ["in", "er", " t", "th", " th", " the", "ing", "re", "  ", "    ", " {", '":'],
    "general": ["el", "mo", "del", " mo", "model", " model", "模", "型", "模型", "\\f", "rac", "\\frac"],
}


def texts() -> list[MeasuredText]:
    made = []
    for number in range(14):
        made.append(
            MeasuredText("books", "web", "en", (f"the modeling of the {number} things\n",), f"b{number}")
        )
        code = f'if x:\n    return {{"model": {number}}}\n        # \\frac{{1}}{{{number}}}\n'
        made.append(MeasuredText("repo", "code", "en", (code, "and a second piece"), f"c{number}", True))
    return [*made, MeasuredText("docs", "web", "zh", ("模型的参数，模型型。",), "z0")]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    entries = [
        Entry(text.encode(), stage, 100 - at)
        for stage, named in ENTRIES.items()
        for at, text in enumerate(named)
    ]
    first, last = "模".encode()[:2], "型".encode()[:2]
    return Vocabulary().extended([Entry(first, "base", 7), Entry(last, "base"), *entries])


@pytest.fixture(scope="module")
def ours(vocabulary: Vocabulary) -> NamedEncoder:
    return from_vocabulary("ours", "Ours", vocabulary, 16)


@pytest.fixture(scope="module")
def bytewise() -> NamedEncoder:
    """A vocabulary of bytes alone, behind o200k's pattern."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=O200K, mergeable_ranks=ranks, special_tokens={"<|end|>": 256}
    )
    return from_tiktoken("bytes", "Bytes", encoding, O200K)


def taken_out(text: bytes, evidence: str) -> dict[str, Any]:
    return Pruned(text, "base", "spam", evidence, 2.5, text + b"s", b"", (text[:1], text[1:])).row()


def nfc_encoder() -> NamedEncoder:
    tokenizer = Tokenizer(models.BPE(vocab={c: at for at, c in enumerate(byte_characters())}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return from_tokenizers("nfc", "NFC", tokenizer)


@pytest.fixture(scope="module")
def report(ours: NamedEncoder, bytewise: NamedEncoder, vocabulary: Vocabulary) -> dict[str, Any]:
    pruned = [taken_out(HOSTILE.encode(), "a hostile pattern")]
    missing = [{"name": "qwen3", "title": "Qwen3", "reason": "offline"}]
    hostile = MeasuredText(HOSTILE, "web", HOSTILE, (HOSTILE * 30,), HOSTILE)
    documents = [*texts(), hostile]
    return measure([ours, bytewise], documents, vocabulary=vocabulary, missing=missing, pruned=pruned)


def row_of(report: dict[str, Any], group: str, name: str) -> dict[str, Any]:
    return next(row for row in report["groups"] if (row["group"], row["name"]) == (group, name))


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


def test_cuts_show_every_token_and_nothing_else(ours: NamedEncoder) -> None:
    text = "the <b>&amp; model型\u3042\n\ttail"
    sizes = ours.sizes[ours.encode([text])[0]].tolist()
    drawn = coloured(text.encode(), sizes)
    assert drawn.count("<b class=t") == len(sizes)
    assert "<u>e3</u>" in drawn  # of あ, which takes three tokens
    bare = html.unescape(re.sub(r"<s[^>]*>.</s>|<u>[^<]*</u>|</?b[^>]*>", "", drawn))
    assert bare == text.replace("\u3042", "")
    altered = side_by_side({"text": text, "by": {"ours": sizes[1:]}}, {"ours": "Ours"})
    assert "alters this text" in altered


def test_the_page_has_the_figures_and_obeys_nothing_in_the_data(report: dict[str, Any]) -> None:
    page = report_page(json.loads(json.dumps(report)), f"run {HOSTILE}")
    assert "<script" not in page.lower()
    assert not any(sign in page for sign in "\x1b\u202e\x00")
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    for row in report["groups"]:
        for figures in row["by"].values():
            assert f"{figures['bytes_per_token']:.3f}" in page
        assert f"{row['ratios']['bytes']['ratio']:.3f}" in page
    for said in (
        "Qwen3 is not compared: offline",
        "which flatters ours",
        "a hostile pattern",
        "general",
        "at most",
    ):
        assert said in page


def test_the_page_says_what_was_learned_from_which_text(report: dict[str, Any]) -> None:
    learning = [{"name": "general", "entries": 12, "words": 54_321, "bytes": 6_700_000, "last_count": 89}]
    part = {"source": HOSTILE, "domain": "web", "language": "en", "documents": 77}
    part |= {"available_bytes": 9_870_000, "sampled_bytes": 1_230_000}
    page = report_page({**report, "learning": learning, "parts": [part]}, "demo")
    for said in ("54,321", "6.7 MB", ">89<", ">77<", "9.87 MB", "1.23 MB"):
        assert said in page
    assert "<script" not in page


def test_the_page_claims_nothing_of_documents_whose_use_nobody_knows(
    report: dict[str, Any], ours: NamedEncoder, bytewise: NamedEncoder
) -> None:
    assert "Ours learned from none of them" in report_page(report, "known")
    unknown = measure([ours, bytewise], of_unknown_use(texts()))
    assert {row["held_out"] for row in unknown["groups"]} == {None}
    page = report_page(unknown, "unknown")
    for claim in ("learned from", "held out", "held-out"):
        assert claim not in page


def test_the_first_figures_are_those_of_sources_held_out(report: dict[str, Any]) -> None:
    page = report_page(report, "demo")
    by = row_of(report, "held_out", "held-out sources")["by"]["ours"]
    assert f"<b>{by['bytes_per_token']:.2f}</b><span>bytes per token, held-out sources</span>" in page


def test_a_report_of_one_tokenizer_is_a_page_too(ours: NamedEncoder) -> None:
    alone = report_page(measure([ours], texts()[:1]), "alone")
    assert "Against the others" not in alone
    assert "Bytes per token" in alone


def test_a_page_warns_of_a_domain_where_a_vocabulary_no_larger_takes_fewer_tokens(
    ours: NamedEncoder, bytewise: NamedEncoder
) -> None:
    documents = [text for text in texts() if text.language == "en"]
    unused = [b"unused%d" % number for number in range(60)]
    same_size = replace(bytewise, token_bytes=[*bytewise.token_bytes, *unused])
    found = measure([same_size, ours], documents)
    tokens = {name: figures["tokens"] for name, figures in row_of(found, "domain", "code")["by"].items()}
    more = tokens["bytes"] / tokens["ours"] - 1
    assert f"On code, ours takes {more:.1%} more tokens than Ours." in report_page(found, "bytes")
    assert "more tokens than" not in report_page(measure([ours, same_size], documents), "ours")
    larger = replace(ours, token_bytes=[*ours.token_bytes, *unused])
    assert "more tokens than" not in report_page(measure([bytewise, larger], documents), "bytes")


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


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
def test_a_browser_shows_the_page_on_wide_and_narrow_screens(report: dict[str, Any], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "tokenizer.html"
    path.write_text(report_page(report, "demo"), "utf-8")
    grounds, inks = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
            tab = context.new_page()
            said: list[str] = []
            asked: list[str] = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(path.as_uri())
            for folded in tab.locator("details").all():
                folded.evaluate("element => { element.open = true }")
            assert said == []
            assert asked == [path.as_uri()]
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            sections = tab.locator("section")
            assert sections.count() == tab.locator("nav a").count() == 9
            for number in range(sections.count()):
                assert sections.nth(number).bounding_box()["height"] > 60
            assert tab.locator("svg:visible").count() == 1
            grounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            inks.append(tab.evaluate("getComputedStyle(document.querySelector('.t0')).backgroundColor"))
            context.close()
        browser.close()
    assert grounds[0] != grounds[1]
    assert inks[0] != inks[1]


def test_o200k_is_cut_as_tiktoken_cuts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    known = tiktoken_ext.openai_public.o200k_base()
    assert known["pat_str"] == O200K
    assert known["special_tokens"] == anchors_module.O200K_SPECIALS


def test_anchors_come_from_a_pinned_archive_or_are_said_to_be_missing(
    vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "packages" / "anchor-1.0.0.tgz"
    archive.parent.mkdir()
    data = to_tokenizers(vocabulary).to_str().encode()
    with tarfile.open(archive, "w:gz") as tarred:
        about = tarfile.TarInfo("package/tokenizer.json")
        about.size = len(data)
        tarred.addfile(about, io.BytesIO(data))
    given_to = Published(
        "Anchor", "npm", "anchor", "1.0.0", archive.name, sha256_file(archive), "package/tokenizer.json"
    )
    monkeypatch.setitem(ANCHORS, "llama3_1", given_to)
    found, missing = load_anchors(["llama3_1", "qwen3", "o200k"], tmp_path, offline=True)
    assert [encoder.name for encoder in found] == ["llama3_1"]
    assert found[0].encode([" model"])[0].tolist() == Encoder(vocabulary).encode(" model").tolist()
    assert [row["name"] for row in missing] == ["qwen3", "o200k"]
    assert "offline" in missing[0]["reason"]
    absent = Published(*(*list(vars(given_to).values())[:6], "package/nothing.json"))
    monkeypatch.setitem(ANCHORS, "llama3_1", absent)
    found, missing = load_anchors(["llama3_1"], tmp_path, offline=True)
    assert found == []
    assert "nothing.json" in missing[0]["reason"]


@pytest.mark.network
def test_published_vocabularies_give_the_ids_they_are_known_for(tmp_path: Path) -> None:
    hello: dict[Anchor, list[int]] = {
        "llama3_1": [15339, 1917],
        "o200k": [24912, 2375],
        "qwen3": [14990, 1879],
    }
    for name, ids in hello.items():
        assert load_anchor(name, tmp_path).encode(["hello world"])[0].tolist() == ids
    deepseek = load_anchor("deepseek_v3", tmp_path)
    ids = deepseek.encode(["hello 世界 1234\n"])[0]
    assert b"".join(deepseek.token_bytes[index] for index in ids).decode() == "hello 世界 1234\n"


def test_a_pedigree_says_what_an_entry_is_made_of(vocabulary: Vocabulary) -> None:
    found = pedigree_of(vocabulary, b" model", [taken_out(b" model", "a twin"), taken_out(b"mo", "no")])
    assert found.made is not None
    assert [part.entry.text for part in found.made.parts] == [b" mo", b"del"]
    assert vocabulary.texts[found.made.rank] == b" model"
    assert vocabulary.token_bytes[found.id or 0] == b" model"
    assert {(vocabulary.texts[a], vocabulary.texts[b]) for a, b in found.splits} == {
        (b" mo", b"del"),
        (b" ", b"model"),
    }
    assert found.pruned == (taken_out(b" model", "a twin"),)
    inner = pedigree_of(vocabulary, b"mo")
    assert [vocabulary.texts[rank] for rank in inner.inside] == [b" mo", b"model"]
    unknown = pedigree_of(vocabulary, b" models")
    assert (unknown.made, unknown.becomes) == (None, (b" model", b"s"))
    assert text_of(vocabulary, found.id or 0) == b" model"
    specials = {END_OF_TEXT: len(vocabulary)}
    assert text_of(vocabulary, len(vocabulary), specials) == END_OF_TEXT.encode()
    for wrong in (-1, len(vocabulary) + 1):
        with pytest.raises(VocabularyError, match=f"ids are 0 to {len(vocabulary)}"):
            text_of(vocabulary, wrong, specials)
    with pytest.raises(VocabularyError, match="at least one byte"):
        pedigree_of(vocabulary, b"")


def test_a_scaffold_has_no_id_and_says_what_it_becomes() -> None:
    made = Vocabulary().extended([Entry(b"ab", "a", 9, scaffold=True), Entry(b"abc", "a", 8)])
    found = pedigree_of(made, b"ab")
    assert (found.id, found.becomes) == (None, (b"a", b"b"))
    assert "scaffold" in found.facts["id"]
    encoder = from_vocabulary("s", "S", made, 0)
    ids = [encoder.encode([text])[0].tolist() for text in ("ab", "abc")]
    assert [[encoder.token_bytes[index] for index in row] for row in ids] == [[b"a", b"b"], [b"abc"]]


class Written(Stage):
    """An artifact of given files."""

    def run(self, work: Workspace) -> dict[str, Any]:
        self.write(work.path)
        return {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Store:
    report = {
        "pruned": [taken_out(b"spam", "a phrase")],  # no schema: of a version that measured otherwise
        "learning": [{"name": "base", "entries": 14, "words": 5, "bytes": 6, "last_count": 7}],
        "tokenizers": [{"name": "ours", "title": "Ours"}, {"name": "hf_bpe", "title": "Hugging Face BPE"}],
    }
    return make_store(tmp_path_factory.mktemp("store"), vocabulary, report)


def make_store(root: Path, vocabulary: Vocabulary, report: dict[str, Any]) -> Store:
    """A store with a run ``demo``: a corpus, and a tokenizer that held ``books`` out."""
    store = Store(root)

    class Corpus(Written):
        kind = "corpus"

        def write(self, path: Path) -> None:
            for source in ("books", "repo", "docs"):
                rows = [
                    {
                        "id": text.id,
                        "text": "".join(text.pieces) + END_OF_TEXT,
                        "domain": text.domain,
                        "language": text.language,
                        "split": "valid" if at % 2 == 0 else "train",
                    }
                    for at, text in enumerate(text for text in texts() if text.source == source)
                ]
                (path / "documents" / source).mkdir(parents=True)
                pq.write_table(pa.Table.from_pylist(rows), path / "documents" / source / "00000.parquet")

    class Made(Written):
        kind = "tokenizer"

        def write(self, path: Path) -> None:
            vocabulary.save(path / VOCABULARY_FILE)
            save_folder(to_tokenizers(vocabulary), 16, path / "hf")
            write_json(path / "report.json", report)

    class HeldOut(Config):
        held_out: tuple[str, ...] = ("books",)

    corpus = execute(Corpus("corpus", Config(), {}), store)
    made = {"corpus": corpus, "tokenizer": execute(Made("tokenizer", HeldOut(), {"corpus": corpus}), store)}
    nodes = {
        name: {
            "fingerprint": artifact.fingerprint,
            "identity": {"inputs": {} if name == "corpus" else {"corpus": str(corpus)}},
            "sealed": True,
        }
        for name, artifact in made.items()
    }
    write_json(store.root / "demo" / "run.json", {"profile": "demo", "nodes": nodes})
    return store


def ask(store: Store, *arguments: str) -> str:
    result = CliRunner().invoke(
        app, ["tokenizer", *arguments, "--root", str(store.root)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_only_documents_nothing_was_learned_from_are_measured(store: Store) -> None:
    folder = next(store.artifacts.glob("corpus-*"))
    found = list(measured_texts([folder], held_out=["books"]))
    assert {(text.source, text.held_out): 0 for text in found}.keys() == {
        ("books", True),
        ("docs", False),
        ("repo", False),
    }
    by = {source: sorted(text.id for text in found if text.source == source) for source in ("books", "repo")}
    assert len(by["books"]) == 14
    assert by["repo"] == sorted(f"c{number}" for number in range(0, 14, 2))
    assert not any(END_OF_TEXT in piece for text in found for piece in text.pieces)
    fewer = list(measured_texts([folder], held_out=["books"], source_bytes=200, seed=1))
    size = sum(len(piece) for text in fewer if text.source == "books" for piece in text.pieces)
    assert 0 < size < 260
    assert {text.id for text in fewer} < {text.id for text in found}
    other = list(measured_texts([folder], held_out=["books"], source_bytes=200, seed=2))
    assert {text.id for text in other} != {text.id for text in fewer}


def test_the_command_line_writes_the_report(store: Store) -> None:
    path = Path(ask(store, "report", "demo").strip())
    assert path == store.root / "demo" / "reports" / "tokenizer.html"
    found = read_json(path.with_suffix(".json"))
    assert row_of(found, "source", "books")["held_out"]
    assert found["pruned"] == [taken_out(b"spam", "a phrase")]
    assert found["tokenizers"][0]["title"] == "demo"
    assert found["learning"][0]["words"] == 5
    assert "Hugging Face BPE is not compared: it was learned" in path.read_text("utf-8")
    assert [row["stage"] for row in found["stages"]] == ["bytes", "base", "general"]
    again = Path(ask(store, "report", "demo", "--anchor", "qwen3", "--offline").strip())
    assert read_json(again.with_suffix(".json"))["groups"] == found["groups"]
    assert "Qwen3 is not compared" in again.read_text("utf-8")


def test_a_report_that_was_sealed_is_drawn_as_it_is(
    report: dict[str, Any], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    sealed = make_store(tmp_path, vocabulary, report)
    path = Path(ask(sealed, "report", "demo").strip())
    assert read_json(path.with_suffix(".json")) == json.loads(json.dumps(report))
    assert path.read_text("utf-8") == report_page(report, "demo")


def test_the_command_line_shows_an_entry(store: Store, vocabulary: Vocabulary) -> None:
    said = ask(store, "show", " model", "--run", "demo")
    for part in ("' model'", "general", "' mo'", "'del'", "when it was learned"):
        assert part in said
    index = vocabulary.token_bytes.index(b" model")
    assert ask(store, "show", str(index), "--id", "--run", "demo") == said
    assert ask(store, "show", r"\x20model", "--escapes", "--run", "demo") == said
    assert "taken out: spam, a phrase; added by base, seen 2.5 times" in ask(
        store, "show", "spam", "--run", "demo"
    )
    special = ask(store, "show", END_OF_TEXT, "--run", "demo")
    assert "a special token" in special
    assert ask(store, "show", str(len(vocabulary) + 1), "--id", "--run", "demo") == special
    for wrong, reason in ((["many", "--id"], "no id"), ([r"\x2", "-e"], "cannot be read")):
        with pytest.raises(StemmaError, match=reason):
            ask(store, "show", *wrong, "--run", "demo")


def test_the_command_line_compares_runs_folders_and_files(store: Store, tmp_path: Path) -> None:
    folder = str(next(store.artifacts.glob("tokenizer-*")) / "hf")
    said = ask(store, "compare", "demo", folder, "--html", str(tmp_path / "out"))
    assert "1.000" in said
    assert "books" in said
    assert (tmp_path / "out" / "tokenizer.html").is_file()
    text = tmp_path / "[red]a.txt"
    text.write_bytes(b"the model \xff " * 9)
    assert text.name in ask(
        store, "compare", "demo", "--text", str(text), "--text", folder + "/tokenizer.json"
    )
    for arguments, reason in (
        (["demo", "demo"], "named twice"),
        (["demo", "nowhere"], "is no tokenizer"),
        (["demo", "o200k", "--offline"], "cannot be had"),
        ([folder], "say with --on RUN"),
        (["demo", "--on", "nowhere"], "no run 'nowhere'"),
        (["demo", "--text", str(tmp_path / "none")], "cannot be read"),
    ):
        with pytest.raises(StemmaError, match=reason):
            ask(store, "compare", *arguments)
    with pytest.raises(StemmaError, match="no published vocabulary"):
        ask(store, "report", "demo", "--anchor", "gpt2")


def test_a_damaged_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StemmaError, match=re.escape(str(tmp_path / "tokenizer.json"))):
        open_encoder(str(tmp_path), tmp_path)


@settings(max_examples=30)
@given(st.binary(max_size=40))
def test_files_that_are_not_text_are_measured_all_the_same(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("text") / "a.bin"
    path.write_bytes(data)
    (text,) = file_texts([path])
    assert text.pieces[0].encode().decode() == data.decode("utf-8", "replace")
