"""What a person sees of a run: reports, pictures, and the server that shows them."""

import asyncio
import base64
import json
import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.dom import minidom

import httpx
import pytest

from flows.board import Board
from flows.chain import ending
from flows.events import Pace, TaskListener
from flows.files import address, find
from flows.gallery import Gallery
from flows.overview import lineage, overview
from flows.pictures import loss_picture, mix_picture, reward_picture
from flows.reports import StageReport, fenced
from pretrain.report.figures import StageFigures
from stemma.core.ledger import Ledger
from stemma.core.lineage import family, picture
from stemma.core.progress import BEGIN, STEP, Event

LOGGER = logging.getLogger("test")
SECRET = "stemma:pass-word"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of runs with a report, and things that nobody may see."""
    (tmp_path / "nano" / "reports" / "stages").mkdir(parents=True)
    (tmp_path / "nano" / "run.json").write_text("{}")
    (tmp_path / "nano" / "reports" / "mix.html").write_text("<p>mix</p>")
    (tmp_path / "nano" / "reports" / ".hidden.html").write_text("draft")
    (tmp_path / "nano" / "reports" / "notes.py").write_text("1")
    (tmp_path / "nano" / "reports" / "stages" / "a-0-loss.svg").write_text("<svg/>")
    (tmp_path / "nano" / "reports" / "out.html").symlink_to(tmp_path / "secret.html")
    (tmp_path / "nano" / "reports" / "up").symlink_to(tmp_path)
    (tmp_path / "nano" / "reports" / "round.html").symlink_to("round.html")
    os.mkfifo(tmp_path / "nano" / "reports" / "pipe.html")
    (tmp_path / "secret.html").write_text("secret")
    (tmp_path / "prefect" / "reports").mkdir(parents=True)
    (tmp_path / "prefect" / "reports" / "x.json").write_text("{}")
    (tmp_path / "linked").symlink_to(tmp_path / "nano")
    return tmp_path


@pytest.mark.parametrize(
    "wanted",
    [
        "nano/run.json",
        "nano/reports",
        "nano/reports/",
        "nano/reports/stages",
        "nano/reports/nothing.html",
        "nano/reports/.hidden.html",
        "nano/reports/notes.py",
        "nano/reports/../run.json",
        "nano/reports/stages/../../run.json",
        "nano//reports/mix.html",
        "../nano/reports/mix.html",
        "nano/reports/out.html",
        "nano/reports/up/secret.html",
        "nano/reports/round.html",
        "nano/reports/pipe.html",
        "linked/reports/mix.html",
        "prefect/reports/x.json",
        "/etc/passwd",
        "nano/reports/mix.html\x00.svg",
        "nano\\reports\\mix.html",
        "",
    ],
)
def test_only_reports_and_pictures_of_runs_are_shown(root: Path, wanted: str) -> None:
    assert find(root, wanted) is None


def test_an_address_leads_back_to_its_file(root: Path) -> None:
    for name in ("mix.html", "stages/a-0-loss.svg"):
        path = root / "nano" / "reports" / name
        shown = address(path, root)
        assert shown == f"/files/nano/reports/{name}"
        assert find(root, shown.removeprefix("/files/")) == path


async def _answer(app: Gallery, *requests: httpx.Request) -> list[httpx.Response]:
    """Answers to requests of one browser, which keeps its cookies."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as browser:
        return [
            await browser.send(browser.build_request(r.method, str(r.url), headers=r.headers))
            for r in requests
        ]


def ask(app: Gallery, *wanted: tuple[str, str, str]) -> list[httpx.Response]:
    """Ask for ``(method, path, credentials)`` in turn."""
    requests = []
    for method, path, credentials in wanted:
        token = base64.b64encode(credentials.encode()).decode()
        headers = {"Authorization": f"Basic {token}"} if credentials else {}
        requests.append(httpx.Request(method, f"http://127.0.0.1{path}", headers=headers))
    return asyncio.run(_answer(app, *requests))


async def api(scope, receive, send) -> None:
    """Stands for Prefect's application."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"api"})


PAGE = "/files/nano/reports/mix.html"


def test_a_report_is_a_stranger_to_the_server_that_shows_it(root: Path) -> None:
    app = Gallery(api, root)
    page, svg, missing, written, other = ask(
        app,
        ("GET", PAGE, ""),
        ("HEAD", "/files/nano/reports/stages/a-0-loss.svg", ""),
        ("GET", "/files/nano/reports/%2e%2e/run.json", ""),
        ("POST", PAGE, ""),
        ("GET", "/api/flow_runs", ""),
    )
    assert (page.status_code, page.text) == (200, "<p>mix</p>")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox allow-scripts" in policy
    assert "allow-same-origin" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert (svg.status_code, svg.headers["content-type"], svg.text) == (200, "image/svg+xml", "")
    assert (missing.status_code, written.status_code) == (404, 405)
    assert other.text == "api"
    assert "set-cookie" not in other.headers


def test_files_ask_for_the_password_of_the_api_and_remember_who_gave_it(root: Path) -> None:
    app = Gallery(api, root, SECRET)
    stranger, wrong, right = ask(app, ("GET", PAGE, ""), ("GET", PAGE, "stemma:guess"), ("GET", PAGE, SECRET))
    assert (stranger.status_code, wrong.status_code, right.status_code) == (401, 401, 200)
    assert stranger.headers["www-authenticate"].startswith("Basic")
    # As the UI does it: its own requests carry the password, that of a picture cannot.
    seen, picture_of_it = ask(app, ("GET", "/api/artifacts", SECRET), ("GET", PAGE, ""))
    cookie = seen.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/files/"} <= set(cookie.split("; "))
    assert "pass-word" not in cookie
    assert picture_of_it.status_code == 200
    guessed, still = ask(app, ("GET", "/api/artifacts", "stemma:guess"), ("GET", PAGE, ""))
    assert ("set-cookie" in guessed.headers, still.status_code) == (False, 401)
    again = ask(Gallery(api, root, SECRET), ("GET", PAGE, ""))[0]
    assert again.status_code == 401
    (forged,) = asyncio.run(
        _answer(
            app,
            httpx.Request("GET", f"http://127.0.0.1{PAGE}", headers={"cookie": f"{app.cookie}=é".encode()}),
        )
    )
    assert forged.status_code == 401


# --- pictures --------------------------------------------------------------------------------------------


def figures(name: str = "stem", steps: int = 50, **more: float) -> StageFigures:
    metrics = [
        {"step": at, "loss": 9.0 - at / 10, "loss/web": 8.5, "bits_per_byte/web": 2.0, "tokens": 64} | more
        for at in range(steps)
    ]
    return StageFigures(name, f"{name}-0", True, metrics, [], [], [])


def test_pictures_stand_by_themselves() -> None:
    planned = Ledger({"<wiki>": "web", "stdlib": "code"})
    planned.record("<wiki>", 3, 300, 300)
    planned.record("stdlib", 1, 100, 100)
    drawn = [
        loss_picture(figures(), 80),
        loss_picture(figures(steps=1)),
        reward_picture(figures("rl", reward=0.5, **{"score/a&b": 0.25})),
        mix_picture("stem", planned, planned),
        mix_picture("stem", planned, None),
    ]
    for text in drawn:
        svg = minidom.parseString(text).documentElement
        assert svg.getAttribute("xmlns") == "http://www.w3.org/2000/svg"
        assert int(svg.getAttribute("width")) > 800
        assert "var(--" in text
        assert "--d0:" in text, "the colours are in it"
        assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), "it asks nobody for anything"
    assert "50 of 80 steps" in drawn[0]
    assert ("planned" in drawn[4], "realized" in drawn[4]) == (True, False)
    assert reward_picture(figures()) == ""


@pytest.fixture
def walk(home: Path, tmp_path: Path):
    from toy_chain import make_run

    run = make_run(tmp_path)
    for name in run.order():
        run.make(name)
    return run


def test_the_lineage_is_drawn_once_a_box_without_lines_that_follow_from_others(walk) -> None:
    members = family(list(walk.artifacts.values()), walk.store)
    assert [member.name for member in members] == ["first", "plan.second", "third"]
    drawn = picture(members, "lineage")
    minidom.parseString(drawn)
    assert all(drawn.count(member.fingerprint[:12]) == 1 for member in members)
    assert drawn.count('class="line"') == 2
    third = members[2]
    inputs = {**third.manifest["inputs"], "also": {"name": "first", "fingerprint": members[0].fingerprint}}
    more = type(third)(
        third.name, third.kind, third.fingerprint, third.path, {**third.manifest, "inputs": inputs}
    )
    assert picture([*members[:2], more], "lineage") == drawn


# --- reports ---------------------------------------------------------------------------------------------


def test_a_stage_s_report_says_what_it_is_and_shows_its_mix(walk) -> None:
    text = StageReport(walk, "plan.second", LOGGER).sealed()
    artifact = walk.artifacts["plan.second"]
    shown = f"/files/toy/reports/stages/{artifact}-mix.svg"
    assert f"![Mix of plan.second]({shown})" in text
    assert find(walk.store.root, shown.removeprefix("/files/")) is not None
    assert "What was consumed is what was planned, to the sample" in text
    assert artifact.fingerprint in text
    assert f"`{walk.artifacts['first']}`" in text
    assert "| bits_per_byte.web | 2.2 → 1.9 |" in text


def test_a_checkpoint_is_said_to_be_kept_where_it_is(walk) -> None:
    folder = walk.artifacts["third"].path
    (folder / "milestones" / "step-00000120").mkdir(parents=True)
    lines = [{"step": step, "state_sha256": f"{step:064x}"} for step in (20, 120, 140)]
    text = StageReport(walk, "third", LOGGER)._checkpoints(replace(figures("third"), checkpoints=lines))
    places = [row.split("|")[3].strip() for row in text.splitlines()[4:]]
    assert places == ["", "`milestones/step-00000120`", "`checkpoint/`"]


def test_what_others_wrote_is_no_markdown_where_a_stage_failed() -> None:
    said = ending(RuntimeError("answered `![x](http://127.0.0.1/x.png)` | <b>"))
    assert said == "failed: RuntimeError: `answered '![x](http://127.0.0.1/x.png)' \\| <b>`"
    assert ending(RuntimeError()) == "failed: RuntimeError"


def test_a_report_is_kept_by_artifact_and_read_again(walk) -> None:
    report = StageReport(walk, "third", LOGGER)
    text = report.sealed()
    kept = walk.folder / "reports" / "stages" / f"{walk.artifacts['third']}.md"
    assert kept.read_text() == text
    kept.write_text("as it was")
    assert report.sealed(anew=False) == "as it was"
    assert report.sealed() == text


def test_a_picture_that_fails_is_said_once_and_leaves_the_rest(walk, monkeypatch, caplog) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("no picture today")

    monkeypatch.setattr("flows.pictures.mix_picture", broken)
    monkeypatch.setattr("flows.overview.picture", broken)
    report = StageReport(walk, "third", LOGGER)
    for _ in range(2):
        text = report.sealed()
    assert walk.artifacts["third"].fingerprint in text
    assert "Mix of third" not in text
    said = [record.getMessage() for record in caplog.records if "no picture today" in record.getMessage()]
    assert said == ["the report of third goes without its mix: ZeroDivisionError('no picture today')"]
    assert f"- `{walk.artifacts['third']}` from" in lineage(walk, report), "a list in its place"


def test_the_run_s_page_says_where_it_stands(walk) -> None:
    done = walk.artifacts.pop("third")
    text = overview(walk, ["first", "plan.second", "third"], "third")
    assert "2 of 3 stages made, **third** is being made" in text
    assert "| third | write the third | | is being made |" in text
    assert f"`{walk.artifacts['first'].fingerprint[:12]}`" in text
    assert "| profile | `toy` |" in text
    walk.artifacts["third"] = done
    assert "3 of 3 stages made." in overview(walk, ["first", "plan.second", "third"])


def test_other_people_s_text_stays_text() -> None:
    shown = fenced("```\n# not a title\n````\n\x1b[2J" + "word " * 500)
    fence = shown.splitlines()[0].removesuffix("text")
    assert fence == "`````"
    assert shown.splitlines()[-1] == fence
    assert "\x1b" not in shown
    assert "more characters" in shown
    assert max(map(len, shown.splitlines())) <= 110


# --- live ------------------------------------------------------------------------------------------------


def test_the_time_left_follows_the_pace_of_this_attempt() -> None:
    pace = Pace()
    assert pace.left(100) is None
    pace.reached(41, 10.0)  # went on from step 40
    assert pace.left(100) is None
    pace.reached(51, 30.0)
    assert pace.left(100) == pytest.approx(98.0)
    pace.reached(45, 40.0)  # back to a checkpoint
    assert pace.left(100) is None
    pace.reached(55, 45.0)
    assert pace.left(100) == pytest.approx(22.5)


def test_a_board_sends_the_newest_and_does_not_make_anybody_wait() -> None:
    board, sent, free = Board(LOGGER), [], threading.Event()

    def slow(at: int) -> None:
        free.wait(30)
        sent.append(at)

    began = time.monotonic()
    for at in range(100):
        board._post("bar", lambda at=at: slow(at))
    assert time.monotonic() - began < 1
    free.set()
    board.close()
    assert sent[-1] == 99
    assert len(sent) <= 2


def test_a_board_gives_up_on_a_server_that_is_gone(caplog) -> None:
    board, free = Board(LOGGER), threading.Event()
    board._post("stage-stem", lambda: free.wait(30) and None)
    board._post("mix-stem", lambda: None)
    board.close(0.2)
    free.set()
    assert "did not take: stage-stem, mix-stem" in caplog.text


def test_a_stage_that_trains_is_reported_on_now_and_then(monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("flows.events.time.monotonic", lambda: now[0])
    shown: list[tuple[str, ...]] = []
    board = SimpleNamespace(
        progress=lambda key, percent, text: shown.append((key, text)),
        markdown=lambda key, text, about: shown.append((key, text)),
    )
    listener = TaskListener("stem", LOGGER, board, lambda total, ended: f"report of {total} steps{ended}")
    listener(Event("stem", BEGIN))
    listener(Event("other", STEP, step=1, total=9, unit="steps", metrics={"loss": 1.0}))
    for step in range(1, 101):
        now[0] += 1
        metrics = {"loss": 2.0, "tokens": 64 * step, "tokens_per_second": 64.0}
        listener(Event("stem", STEP, step=step, total=300, unit="steps", metrics=metrics))
    reports = [entry for entry in shown if entry[0] == "stage-stem"]
    assert reports == [("stage-stem", "report of 300 steps")] * 2, "after 15 s and 75 s"
    bars = [text for key, text in shown if key == "progress-stem"]
    assert 70 < len(bars) <= 100
    assert bars[-1] == "stem · 100 of 300 steps · 6,400 tokens · loss 2.000 · 64 tok/s · 3 m 20 s left"
    listener.ended(" was stopped")
    assert shown[-2][1].startswith("stem · stopped · 100 of 300 steps")
    assert shown[-1] == ("stage-stem", "report of 300 steps was stopped"), "nothing goes on being made"


def test_the_report_of_a_stage_that_trains_shows_its_loss_so_far(walk) -> None:
    folder = walk.artifacts.pop("third").path
    (folder / "manifest.json").unlink()
    lines = [{"step": at, "loss": 5.0 - at, "tokens": 64} for at in range(3)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    text = StageReport(walk, "third", LOGGER).working(300)
    shown = f"/files/toy/reports/stages/{folder.name}-loss.svg"
    assert f"({shown})" in text
    drawn = find(walk.store.root, shown.removeprefix("/files/"))
    assert "3 of 300 steps" in drawn.read_text()
    assert text.startswith("# third · being made")
    assert "**Cancel**, while it is made, writes a checkpoint" in text
    ended = StageReport(walk, "third", LOGGER).working(300, "failed: OSError: no room")
    assert "being made" not in ended
    assert "**third** failed: OSError: no room." in ended
