"""The page has the report's figures, obeys nothing in the data, and says what is missing."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer.report.samples import HOSTILE, row_of, texts
from tokenizer.report.cuts import coloured, side_by_side
from tokenizer.report.encoders import NamedEncoder
from tokenizer.report.measure import measure
from tokenizer.report.page import report_page
from tokenizer.report.texts import of_unknown_use

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


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
