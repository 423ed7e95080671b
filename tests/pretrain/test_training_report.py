"""The training page: its figures are the records', it is safe, and a browser shows it as meant."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.report.figures import StageFigures, gather
from pretrain.report.lines import Line, Stretch, chart, smooth, ticks
from pretrain.report.page import training_page
from stemma.core.artifact import Store
from stemma.core.config import Config
from stemma.core.files import write_json
from stemma.core.stage import Stage, Workspace, execute

NASTY = "<script>alert('no')</script> \" onmouseover=\"alert(1)"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


def metrics(steps: int, reward: bool = False) -> list[dict[str, Any]]:
    lines = []
    for step in range(steps):
        loss = 3 + 5 * math.exp(-step / 20) + 0.1 * math.sin(7 * step)
        line: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "grad_norm": 1 + math.cos(step) ** 2,
            "lr": 3e-3,
            "tokens": 2048,
            "seconds": 0.5,
            "data_seconds": 0.05,
            "tokens_per_second": 4096.0,
        }
        line |= (
            {"reward": 0.4, "score/puzzle": 0.3} if reward else {"loss/web": loss, "loss/code": loss - 0.5}
        )
        lines.append(line)
    lines[3]["loss"] = None  # NaN is written so
    return lines


def positions(step: int) -> dict[str, Any]:
    return {
        "monitor": "positions",
        "step": step,
        "sequence_length": 256,
        "tokens": 80_000,
        "a0": 2.0,
        "a1": 0.1,
        "a2": 3.0,
        "rmse": 0.02,
        "identifiable": True,
        "mean": 3.3,
        "predicted": 3.31 if step > 20 else None,
        "curve": [[at, 2 / (1 + 0.1 * at) + 3] for at in (1, 4, 16, 64, 256)],
    }


NEEDLE = {
    "monitor": "needle",
    "step": 40,
    "sequence_length": 256,
    "needles": 5,
    "gain": 0.75,
    "found": 0.2,
    "depths": {depth: {"gain": 0.75, "found": 0.2} for depth in ("0", "0.5", "1")},
}
INCIDENT = {
    "step": 7,
    "kind": "loss_spike",
    "policy": "skip",
    "usual": 3.0,
    "deviations": 40.0,
    "loss": "99.0",
    "grad_norm": "5.0",
    "batch_sha256": "ab",
    "batch": [{"source": NASTY, "documents": [{"id": "0123", "origin": NASTY, "first": 0, "last": 9}]}],
}


def figures(**changes: Any) -> list[StageFigures]:
    first: dict[str, Any] = {
        "name": "stem",
        "folder": "stem-0123456789ab",
        "sealed": True,
        "metrics": metrics(40),
        "monitors": [positions(20), positions(40), NEEDLE],
        "incidents": [INCIDENT],
        "checkpoints": [{"step": 40, "chain_sha256": "c0ffee" * 10, "state_sha256": "00"}],
        "bits": {"web": (4.0, 2.5), "code": (3.0, 3.5)},
    }
    rl = StageFigures("rl", "rl-0123456789ab", False, metrics(12, reward=True), [], [], [])
    return [StageFigures(**first | changes), rl]


def test_the_page_says_what_the_records_hold() -> None:
    page = training_page(figures(summary={"restarts": 2}), "run-of-" + NASTY)
    assert "<script>alert" not in page
    assert 'onmouseover="alert' not in page
    shown = re.sub(r"<[^>]+>", " ", page)
    for expected in ("52", "c0ffee", "loss spike", "0123 (", "4.000", "2.500", "+0.75", "20.0%", "3.310"):
        assert expected in shown, expected
    assert "stem: 1 step with loss spike" in shown
    assert "stem died or hung, and was started again 2 times" in shown
    assert "rl is not finished: 12 steps so far" in shown
    assert "stem made held-out text of code over a tenth costlier" in shown


def test_a_page_of_a_stage_with_one_step_and_nothing_else() -> None:
    lean = figures(monitors=[], incidents=[], checkpoints=[], bits={}, metrics=metrics(4)[:1])[:1]
    page = training_page(lean, "lean")
    assert "every step was applied, and none stood out" in page
    assert 'id="needles"' not in page


class Trained(Stage):
    """What a training stage leaves, in small."""

    kind = "test_trained"

    def run(self, work: Workspace) -> dict[str, Any]:
        lines = "".join(json.dumps(line) + "\n" for line in metrics(5))
        (work.path / "metrics.jsonl").write_text(lines)
        write_json(work.path / "evaluation.json", {"before": {"web": 4.0}, "after": {"web": 3.0}})
        return {"steps": 5}


def test_stages_are_read_sealed_or_training(tmp_path: Path) -> None:
    artifact = execute(Trained("stem", Config(), {}), Store(tmp_path))
    training = tmp_path / "general-0"
    training.mkdir()
    half = json.dumps(metrics(4)[0]) + "\n" + '{"step": 1, "lo'  # the process is still writing
    (training / "metrics.jsonl").write_text(half)
    stem, general = gather({"stem": artifact}, {"general": training, "agentic": tmp_path})
    assert (stem.sealed, stem.steps, stem.tokens, stem.bits) == (True, 5, 5 * 2048, {"web": (4.0, 3.0)})
    assert (general.sealed, general.steps, general.bits) == (False, 1, {})


def test_a_page_of_a_stage_that_only_went_wrong() -> None:
    broken = [line | {"loss": None, "grad_norm": None} for line in metrics(4)[:2]]
    for line in broken:
        del line["loss/web"], line["loss/code"]
    incidents = [INCIDENT | {"step": step} for step in range(60)]
    partial = NEEDLE | {"depths": {"0.5": {"gain": -1.25, "found": 0.0}}}
    page = training_page(figures(metrics=broken, incidents=incidents, monitors=[partial, NEEDLE])[:1], "x")
    shown = re.sub(r"<[^>]+>", " ", page)
    assert "10 earlier ones" in shown
    assert "step 59" in shown
    assert "-1.25" in shown


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 9))
def test_ticks_span_the_range_in_round_steps(low: float, extent: float, about: int) -> None:
    found = ticks(low, low + extent, about)
    slack = 1e-6 * max(1.0, abs(low), extent)  # of what can be seen on a chart
    assert found[0] <= low + slack
    assert found[-1] >= low + extent - slack
    assert 2 <= len(found) <= 2 * about + 3


def test_smoothing_keeps_means_and_ends_within_the_limit() -> None:
    points = [(float(x), float(x * x)) for x in range(1000)]
    found = smooth(points, 100)
    assert len(found) == 100
    assert sum(y for _, y in found) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert smooth(points[:7], 100) == points[:7]


def test_curves_stay_inside_their_chart() -> None:
    points = [(float(x), 2.0 if x != 500 else 1e9) for x in range(1, 1001)]  # one value far above all others
    drawn = chart(
        [Line("a", 0, points)], "t", 600, "{:g}".format, "{:g}".format, stretches=[Stretch("s", 1, 1000)]
    )
    path = re.search(r'<path d="M([^"]+)"', drawn)
    assert path is not None
    spots = [tuple(map(float, spot.split())) for spot in path[1].split("L")]
    assert all(0 <= x <= 600 and 0 <= y <= 250 for x, y in spots)
    assert max(y for _, y in spots) - min(y for _, y in spots) > 50  # and the others are not pressed flat


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_without_errors(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    path = tmp_path / "training.html"
    path.write_text(training_page(figures(), "a run"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        problems: list[str] = []
        for width in (1200, 380):
            view = browser.new_page(viewport={"width": width, "height": 800})
            view.on("console", lambda message: problems.append(message.text))
            view.on("pageerror", lambda error: problems.append(str(error)))
            view.goto(path.as_uri())
            assert not problems
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            kind = "wide" if width > 720 else "narrow"
            assert view.locator(f"#loss figure.{kind} svg").is_visible()
            if width > 720:
                view.locator("#loss figure.wide rect.hit").nth(3).hover()
                assert "stem, step" in view.locator("#tip").inner_text()
        browser.close()
