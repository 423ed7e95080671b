"""The documentation as a site: it builds strictly, its reference is whole, and it asks no other host."""

import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from stemma.profile import Profile
from tools import profile_reference

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "image": "href"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(folder, ROOT / "mkdocs.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def build(folder: Path, config: Path) -> "subprocess.CompletedProcess[str]":
    command = ["-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )


def test_every_field_of_a_profile_is_described(site: Path) -> None:
    schema = Profile.model_json_schema(mode="validation")
    fields = {
        (title, field): about
        for title, model in {"Profile": schema, **schema["$defs"]}.items()
        for field, about in model.get("properties", {}).items()
    }
    pages = {path.stem: path.read_text() for path in (site / "profile").glob("*.html")}
    every = "\n".join(pages.values())
    for name, field in fields:
        if name == "Profile":
            assert f"<code>{field}</code>" in pages["index"], field
        else:  # models of the same name are told apart by their module in the schema's keys
            name = name.rpartition("__")[2]
            assert f'id="{name.lower()}.{field}"' in every, f"{name}.{field}"
    rows = re.findall(r'<tr>\s*<td><a id="[^"]*">.*?</tr>', every, re.DOTALL)
    assert len(rows) == len(fields) - len(Profile.model_fields)
    for row in rows:
        cells = re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
        field, meaning, kind, default, mark = cells
        assert len(re.sub(r"<.*?>", "", meaning)) > 5, f"{field} has no description"
        assert kind, field
        assert default, field
        assert mark in ("identity", "execution"), field


def test_types_bounds_defaults_units_and_marks_are_those_of_the_models() -> None:
    pages = profile_reference.pages()

    def row(page: str, anchor: str) -> list[str]:
        (line,) = [line for line in pages[f"profile/{page}.md"].splitlines() if f'id="{anchor}"' in line]
        return [cell.strip() for cell in re.split(r" \| ", line.strip("| "))][2:]

    assert row("training", "scheduleconfig.peak_lr") == ["number or null, > 0", "**required**", "identity"]
    assert row("training", "trainingconfig.checkpoint_every") == ["steps, > 0", "`50`", "execution"]
    assert row("training", "scheduleconfig.shape")[0] == "`constant` · `linear` · `cosine` · `wsd`"
    assert row("sft", "sftconfig.max_tokens") == ["tokens, ≥ 2", "**required**", "identity"]
    assert row("execution", "execution.workers") == ["whole number, ≥ 1", "`2`", "execution"]
    assert row("rl", "samplingconfig.top_p") == ["number, > 0, ≤ 1", "`1.0`", "identity"]
    assert row("sft", "sftconfig.training")[0] == "[`training.STAGE`](training.md#trainingconfig)"
    assert "## training.STAGE.schedule {#scheduleconfig}" in pages["profile/training.md"]
    assert "Also at `sft.training.schedule`, `rl.training.schedule`." in pages["profile/training.md"]
    assert "## data.sources.NAME, type: debian {#debiansource}" in pages["profile/data.md"]


class Loaded(HTMLParser):
    """What a page makes a browser load, and the addresses in its styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "link" and given.get("rel") in ("canonical", "next", "prev"):
            return
        self.found += [
            given.get(LOADS.get(tag, "")) or "",
            given.get("srcset") or "",
            given.get("style") or "",
        ]


def test_no_page_names_another_host_for_anything_it_loads(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text())
        assert not [found for found in parser.found if "//" in found], page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)]*", sheet.read_text()), sheet


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.browser
def test_in_a_browser_it_asks_nobody_else_and_finds_words(address: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index", "profile/training", "operating"):
            page.goto(f"{address}/{name}.html", wait_until="networkidle", timeout=120_000)
        page.locator("input.md-search__input").click()
        for key in "checkpoint_every":  # the search begins with a key let go
            page.keyboard.press(key)
        page.wait_for_selector(".md-search-result__item a", timeout=60_000)
        browser.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not errors


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[there](not-there.md)\n")
    keep = {key: config[key] for key in ("site_name", "strict", "theme", "validation")}
    (tmp_path / "mkdocs.yml").write_text(json.dumps(keep))
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "not-there.md" in done.stdout + done.stderr
