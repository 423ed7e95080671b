"""The HTML reports: their figures are the artifacts', they are safe, and a browser shows them as meant."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.config import PhaseConfig, PlanEdit
from data_pipeline.corpus.statistics import Statistics, summarise
from data_pipeline.curriculum.stage import PlanStage
from data_pipeline.inspection.report import corpus_figures, mix_figures
from data_pipeline.inspection.report.charts import (
    Loss,
    Span,
    Stack,
    both,
    coarser,
    composition,
    histogram,
    quantile,
    sankey,
    timeline,
)
from data_pipeline.inspection.report.corpus_figures import CorpusFigures
from data_pipeline.inspection.report.corpus_page import corpus_page
from data_pipeline.inspection.report.mix_page import mix_page
from data_pipeline.inspection.report.page import Notice, Section, clip, colour_of, compact, page, size, text
from data_pipeline.inspection.report.write import write_reports
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.files import write_json
from stemma.core.stage import Stage, Workspace, execute
from tests.data_pipeline.test_inspect import curriculum, make_run

NASTY = "<script>alert('no')</script> \" onmouseover=\"alert(1) </pre></section> \u202egnp \x1b[2J é 漢字 🙂"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


class FullCorpus(Stage):
    """A corpus with every optional file, texts that try to break a page, and a name nobody should choose."""

    kind = "full_corpus"

    def run(self, work: Workspace) -> dict[str, Any]:
        sources = {"encyclopedia": "web", "crawl_2024": "web", "proofs": "stem", "tool_calls": "agent"}
        counts, described, funnel = {}, [], {}
        for at, (name, domain) in enumerate(sources.items()):
            rows = [
                {
                    "id": f"{name}-{n:03d}",
                    "text": f"{NASTY} {name} " + "lorem ipsum\n" * (n * n % 97 + at * 40),
                    "source": name,
                    "domain": domain,
                    "language": "en" if n % 5 else "de",
                    "licence": "MIT",
                    "origin": f"https://example{n % 7}.org/{n}<i>",
                    "split": "valid" if n == 3 else "train",
                    "cluster": "",
                    "decisions": json.dumps({"language_score": 0.6 + n / 200}),
                }
                for n in range(60)
            ]
            gone = [
                {
                    **row,
                    "id": f"gone-{name}-{n}",
                    "rule": ("dup_line_frac", "near_duplicate")[n % 2],
                    "value": ("0.4", rows[0]["id"])[n % 2],
                    "cluster": ("", rows[0]["id"])[n % 2],
                }
                for n, row in enumerate(rows[:20])
            ]
            for kind, table in (("documents", rows), ("rejects", gone)):
                (work.path / kind / name).mkdir(parents=True)
                pq.write_table(pa.Table.from_pylist(table), work.path / kind / name / "00000.parquet")
            counts[name] = Statistics()
            counts[name].add_documents(pa.Table.from_pylist(rows), {rows[0]["id"]: 10})
            counts[name].add_rejects(pa.Table.from_pylist(gone), ("near_duplicate",))
            described.append(
                {"id": name, "domain": domain, "licence": "MIT", "language": "en", "use": "train"}
            )
            steps = [("read", 80, 9_000), ("gopher_repetition", 70, 8_000), ("near_duplicate", 60, 7_000)]
            funnel[name] = {
                "domain": domain,
                "steps": [{"step": s, "documents": d, "bytes": b * (at + 1)} for s, d, b in steps],
                "rejected": {"dup_line_frac": 10, "near_duplicate": 10},
            }
        described.append(
            {"id": "far_away", "domain": "web", "licence": "MIT", "language": "en", "skipped": "no such host"}
        )
        write_json(work.path / "sources.json", described)
        write_json(work.path / "funnel.json", {"sources": funnel, "domains": {}})
        write_json(work.path / "statistics.json", summarise(counts, described))
        hit = {
            "id": "encyclopedia-001",
            "source": "encyclopedia",
            "origin": "o",
            "rule": "contaminated",
            "n": 13,
            "words": 21,
            "text": "lorem ipsum",
            "evaluation_source": "exam",
            "evaluation_item": "7",
            "document_excerpt": f"before lorem ipsum after {NASTY}",
            "evaluation_excerpt": "question lorem ipsum",
        }
        pq.write_table(pa.Table.from_pylist([hit] * 55), work.path / "contamination.parquet")
        return {}


class Scores(Stage):
    """A quality artifact."""

    kind = "quality"

    def run(self, work: Workspace) -> dict[str, Any]:
        (work.path / "scores").mkdir()
        table = {
            "id": [f"encyclopedia-{n:03d}" for n in range(60)],
            "quality": pa.array([n / 60 for n in range(60)], pa.float32()),
            "domain": ["history" if n % 3 else "physics" for n in range(60)],
            "subdomain": ["x"] * 60,
            "clarity": pa.array([0.5] * 60, pa.float32()),
        }
        pq.write_table(pa.table(table), work.path / "scores" / "encyclopedia.parquet")
        return {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A run's artifacts: plans over small tokens of a corpus without optional files."""
    return make_run(Store(tmp_path_factory.mktemp("made")))


@pytest.fixture(scope="module")
def full(made: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The same plans, and the corpus and scores above."""
    store = Store(tmp_path_factory.mktemp("full"))
    return {
        **made,
        "corpus": execute(FullCorpus("corpus", Config(), {}), store),
        "quality": execute(Scores("quality", Config(), {}), store),
    }


def test_the_corpus_page_has_the_artifacts_figures(full: dict[str, Artifact]) -> None:
    shown = corpus_page(corpus_figures.gather(full["corpus"], full["quality"]), "demo")
    for name in ("encyclopedia", "crawl_2024", "proofs", "tool_calls", "far_away"):
        assert name in shown
    assert "<b>240</b><span>documents kept of 320 read</span>" in shown
    assert "far_away was out of reach: no such host" in shown
    assert "−40 (12.5%)" in shown  # each of the two steps takes ten of four sources
    assert "<mark>lorem ipsum</mark>" in shown
    assert "and 35 more in contamination.parquet" in shown
    assert "median 0.50" in shown  # of the scores
    assert "history" in shown
    assert "example3.org" in shown
    assert "brought no statistics" not in shown


def test_a_corpus_without_optional_files_is_counted_from_its_documents(
    made: dict[str, Artifact], tmp_path: Path
) -> None:
    figures = corpus_figures.gather(made["corpus"])
    assert figures.counted == 60
    assert figures.statistics["domains"]["stem"]["documents"] == 30
    shown = corpus_page(figures, "bare")
    assert "counted from 60 of its documents" in shown
    assert "c4 lorem ipsum".replace(" ", "") in shown.replace(" ", "").replace(".", "")
    written = write_reports(made, tmp_path / "bare", "bare")
    assert [path.name for path in written] == ["corpus.html", "mix.html"]
    assert write_reports({}, tmp_path / "nothing", "nothing") == []


def test_what_a_corpus_says_is_shown_and_never_obeyed(full: dict[str, Artifact]) -> None:
    shown = corpus_page(corpus_figures.gather(full["corpus"], full["quality"]), NASTY)
    assert shown.count("<script>") == 1
    assert "&lt;script&gt;alert(&#x27;no&#x27;)&lt;/script&gt;" in shown
    assert "onmouseover=&quot;" in shown
    assert 'onmouseover="' not in shown
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    assert "漢字 🙂" in shown
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", shown)


def test_thousands_of_sources_are_capped_and_counted(full: dict[str, Artifact]) -> None:
    few = corpus_figures.gather(full["corpus"])
    sources = [
        corpus_figures.SourceFigures(f"s{n:04d}", "web", "MIT", "en", "train", (10, 1_000), (n % 10, 10 * n))
        for n in range(3_000)
    ]
    rules = {f"rule_{n}": n for n in range(500)}
    many = CorpusFigures(**{**vars(few), "sources": sources, "rules": rules, "examples": {}})
    shown = corpus_page(many, "many")
    assert len(shown) < 1_500_000
    assert "and 2,976 more" in shown
    assert "and 2,700 more" in shown
    assert "more of this kind" in shown


def test_the_mix_page_has_the_plans_figures(full: dict[str, Artifact]) -> None:
    figures = mix_figures.gather(full)
    shown = mix_page(figures, "demo")
    total = sum(mix.tokens for mix in figures.mixes)
    assert f"<b>{compact(total)}</b><span>tokens planned in 2 stages</span>" in shown
    for mix in figures.mixes:
        assert f"{mix.tokens:,}" in shown
        for row in mix.rows:
            assert f"{row.planned.tokens:,}" in shown
    assert "planned and realized counts are equal in every stage that has trained" in shown
    assert shown.count("<h3>commonsense</h3>") == 1
    assert "one after another it would be" in shown


def test_the_cap_of_a_source_is_the_highest_a_phase_allows(full: dict[str, Artifact], tmp_path: Path) -> None:
    phase = PhaseConfig(
        name="rest", tokens=640, sequence_length=16, weights={"web": 1.0}, max_epochs={"notes": 20}
    )
    config = curriculum((2_000, 16, {"web": 0.75, "stem": 0.25}))
    config = config.edited(PlanEdit(at_step=3, phases=(phase,), max_epochs=12))
    plan = execute(PlanStage("plan.commonsense", config, {"tokens": full["tokens"]}), Store(tmp_path))
    run = {name: full[name] for name in ("corpus", "tokenizer", "tokens")} | {"plan.commonsense": plan}
    facts = mix_figures.gather(run).facts["commonsense"]
    assert facts.caps == {"notes": 20, "sums": 12}
    assert (facts.edits, facts.settings["max_epochs"]) == ([3], 9)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.floats(0, 1), st.floats(0, 1))
def test_histograms_keep_their_counts_and_quantiles_their_order(
    counts: list[int], left: float, right: float
) -> None:
    edges = [float(2**at) if at < 40 else float(2**40 + at) for at in range(len(counts) + 1)]
    shown_edges, shown = coarser({"edges": edges, "counts": counts})
    assert sum(shown) == sum(counts)
    assert len(shown_edges) == len(shown) + 1 <= 35
    assert shown_edges == sorted(shown_edges)
    low, high = (quantile(edges, counts, part) for part in sorted((left, right)))
    assert edges[0] <= low <= high <= edges[-1]


@given(st.text())
def test_no_text_can_leave_its_element(value: str) -> None:
    shown = text(value)
    assert not set(shown) & set("<>\"'\x00\u202e")
    assert clip(value, 10)[:10] == value[:10]


@pytest.mark.parametrize(
    ("value", "shown", "bytes_shown"),
    [(0, "0", "0 B"), (999, "999", "999 B"), (12_345_678, "12.3 M", "12.3 MB"), (999_999, "1 M", "1 MB")],
)
def test_numbers_are_short_and_honest(value: int, shown: str, bytes_shown: str) -> None:
    assert compact(value) == shown
    assert size(value) == bytes_shown


def schemes() -> Iterator[dict[str, str]]:
    """The colours of the light and the dark scheme."""
    style = Path(corpus_figures.__file__).with_name("style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#\w{6})", light))
    yield found
    yield found | dict(re.findall(r"--([\w-]+): (#\w{6})", dark))


@pytest.mark.parametrize("colours", schemes(), ids=("light", "dark"))
def test_every_text_can_be_read(colours: dict[str, str]) -> None:
    """WCAG 2.2, 1.4.3: contrast of at least 4.5 between a text and what it stands on."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "card")]
    pairs += [("good", "card"), ("warn", "warn-bg"), ("bad", "bad-bg"), ("tip-ink", "tip")]
    pairs += [("on", f"d{number}") for number in range(4)]
    for ink, ground in pairs:
        low, high = sorted((luminance(colours[ink]), luminance(colours[ground])))
        ratio = (high + 0.05) / (low + 0.05)
        assert ratio >= 4.5 or (ground.startswith("d") and ratio >= 3.0), f"{ink} on {ground}: {ratio:.2f}"


OUTSIDE = """() => [...document.querySelectorAll('svg text')].filter(text => {
    if (!text.getClientRects().length) return false;
    const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
    const right = box.x + box.width, bottom = box.y + box.height;
    return box.x < -1 || box.y < -1 || right > view.width + 1 || bottom > view.height + 1;
}).map(text => text.textContent)"""


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
def test_a_browser_shows_the_pages_without_asking_anyone(full: dict[str, Artifact], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    paths = write_reports(full, tmp_path, "demo")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for path in paths:
            grounds = []
            for width, scheme in ((1280, "light"), (390, "dark")):
                context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
                tab = context.new_page()
                said: list[str] = []
                asked: list[str] = []
                tab.on("console", lambda message, said=said: said.append(message.text))
                tab.on("pageerror", lambda error, said=said: said.append(str(error)))
                tab.on("request", lambda request, asked=asked: asked.append(request.url))
                tab.goto(path.as_uri())
                assert said == []
                assert asked == [path.as_uri()]
                scroll = tab.evaluate("document.documentElement.scrollWidth")
                assert scroll <= width, f"{path.name} is {scroll} px wide in a window of {width}"
                assert tab.evaluate(OUTSIDE) == []
                sections = tab.locator("section")
                links = tab.locator("nav a")
                assert sections.count() == links.count() >= 5
                for number in range(sections.count()):
                    assert sections.nth(number).is_visible()
                    assert sections.nth(number).bounding_box()["height"] > 60
                for folded in tab.locator("details").all():
                    folded.evaluate("element => { element.open = true }")
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                shape = tab.locator("svg rect[data-tip]:visible").first
                shape.scroll_into_view_if_needed()
                shape.hover(force=True)
                tab.wait_for_timeout(150)  # scrolling there hides a tip
                box = shape.bounding_box()
                tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 1)
                assert tab.locator("#tip").is_visible()
                assert tab.locator("#tip").inner_text() == shape.get_attribute("data-tip")
                grounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
                context.close()
            assert grounds[0] != grounds[1]
        browser.close()


def crowded() -> str:
    """A page of charts with far more, and far longer named, parts than fit."""
    domains = [f"domain_number_{n}" for n in range(9)]
    colours = colour_of(domains)
    stacks = [
        Stack(
            f"a_stage_with_a_long_name_{n}",
            f"{n} tokens",
            {d: {d + str(k): 3.0**n for k in range(9)} for d in domains},
        )
        for n in range(12)
    ]
    spans = [
        Span(
            f"stage_{n // 4}",
            f"p{n}",
            10.0 ** (12 - n / 4),
            2 ** (8 + n // 5),
            dict.fromkeys(domains, 1 / 9),
            0.5,
        )
        for n in range(40)
    ]
    losses = [
        Loss(f"a filter with a long name {n}", dict.fromkeys(domains, 1e5 / (n + 1))) for n in range(26)
    ]
    drawn = [
        both(lambda width: composition(stacks, colours, "t", "tokens", width)),
        both(lambda width: timeline(spans, colours, "t", width)),
        f'<div class="wide">{sankey(dict.fromkeys(domains, 1e6), losses, colours, "t", "documents")}</div>',
        histogram(
            [10.0**n for n in range(40)], [1.0] * 39, 1, "t", lambda v: f"{v:.3e}", "x", 1e39, "median 1e39"
        ),
    ]
    sections = [Section(f"s{n}", "title " * 30, "lead", body) for n, body in enumerate(drawn)]
    notices = [Notice("bad", "x" * 300)]
    return page("k", "a_name_without_a_gap" * 9, "s", [("9" * 12, "of it")] * 7, notices, sections, "f")


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_crowded_charts_keep_their_text_inside(tmp_path: Path, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "crowded.html"
    path.write_text(crowded(), encoding="utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.goto(path.as_uri())
        assert tab.evaluate(OUTSIDE) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
def test_a_long_table_can_be_filtered(full: dict[str, Artifact], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    few = corpus_figures.gather(full["corpus"])
    sources = [
        corpus_figures.SourceFigures(f"s{n:02d}", "web", "MIT", "en", "train", (10, 100), (9, 90))
        for n in range(40)
    ]
    path = tmp_path / "corpus.html"
    path.write_text(corpus_page(CorpusFigures(**{**vars(few), "sources": sources}), "many"), encoding="utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(path.as_uri())
        rows = tab.locator("#all-sources tbody tr:visible")
        assert rows.count() == 40
        tab.locator("input[data-filters='all-sources']").fill("S17")
        assert rows.count() == 1
        assert "s17" in rows.first.inner_text()
        browser.close()
