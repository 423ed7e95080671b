"""``python -m tools.screenshots``: take the pictures of the documentation, so that they stay true.

A real server, a real worker, a real browser, and the run that ``make demo`` left: its files are linked into a
scratch folder, where the pictures' own runs are made. Every picture is of something that was waited for, so
what the UI no longer shows ends the script. About six minutes on two idle cores.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "assets"
WIDTH, HEIGHT = 1280, 800
TIMELINE = {"x": 272, "y": 112, "width": 992, "height": 384}  # of a run's page, in that window
DRAWN_BYTES = 25_000  # of its picture, once there are tasks in it; empty it has 16,000
PATIENCE = 900.0  # seconds for what trains on a machine that may be busy
CHROMIUM = "/usr/bin/chromium"
RENAME = """([from, to]) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) walker.currentNode.nodeValue = walker.currentNode.nodeValue.replaceAll(from, to);
}"""


class Studio:
    """A browser at a server with a run to show.

    Args:
        url: the server's.
        page: the browser's.
        out: folder of the pictures.
        root: the server's folder of runs; pictures call it ``runs``.
    """

    def __init__(self, url: str, page: Any, out: Path, root: Path) -> None:
        self.url = url
        self.root = str(root)
        self.page = page
        self.out = out
        self.api = httpx.Client(base_url=f"{url}/api", timeout=60.0)

    def open(self, path: str, text: str) -> None:
        """Go to a page and wait until it shows a text."""
        self.page.goto(f"{self.url}{path}", wait_until="domcontentloaded", timeout=120_000)
        self.see(text)

    def see(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.page.get_by_text(text, exact=False).first.wait_for(timeout=120_000)

    def press(self, name: str) -> None:
        """Press the last button of a name: that of a dialog, if there is one."""
        self.page.get_by_role("button", name=name, exact=True).last.click(timeout=120_000)

    def shoot(self, name: str, seconds: float = 2.0, height: int = HEIGHT) -> None:
        """Take a picture.

        Args:
            name: of its file.
            seconds: to let the page come to rest.
            height: pixels of the window: pages scroll inside.
        """
        self.page.set_viewport_size({"width": WIDTH, "height": height})
        self.page.wait_for_timeout(1000 * seconds)
        self.page.evaluate(RENAME, [self.root, "runs"])
        self.page.screenshot(path=self.out / f"{name}.png")
        print(name, flush=True)

    def timeline(self) -> None:
        """Wait until a run's timeline is drawn: on a canvas, so that no text says so."""
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        wait(lambda: len(self.page.screenshot(clip=TIMELINE)) > DRAWN_BYTES, "a run's timeline", 180.0)

    def deployment(self, name: str) -> str:
        """A deployment's id."""
        flow, _, deployment = name.partition("/")
        return str(self.answer("GET", f"/deployments/name/{flow}/{deployment}")["id"])

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a flow run; returns its id."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(
            self.answer("POST", f"/deployments/{self.deployment(deployment)}/create_flow_run", body)["id"]
        )

    def state(self, run: str) -> str:
        return str(self.answer("GET", f"/flow_runs/{run}")["state"]["name"])

    def until(self, run: str, *names: str) -> str:
        """Wait for a flow run to be in one of some states."""
        wait(lambda: self.state(run) in names, f"flow run {run} to be {' or '.join(names)}")
        return self.state(run)

    def artifact(self, run: str, key: str) -> dict[str, Any] | None:
        """A flow run's newest artifact of a key."""
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}, "sort": "UPDATED_DESC", "limit": 200}
        found = self.answer("POST", "/artifacts/filter", body)
        return next((one for one in found if one["key"] == key), None)

    def open_artifact(self, run: str, key: str, text: str) -> None:
        """Go to a flow run's artifact, when it is there."""
        found = wait(lambda: self.artifact(run, key), f"the artifact {key}")
        self.open(f"/artifacts/artifact/{found['id']}", text)

    def answer(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.api.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json()


def wait(done: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something to be true; returns it.

    Raises:
        TimeoutError: it did not become so.
    """
    deadline = time.monotonic() + seconds
    while not (found := done()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(1.0)
    return found


@contextlib.contextmanager
def served(runs: Path, port: int) -> Iterator[tuple[str, Path]]:
    """``stemma ui`` on a scratch folder that holds what a finished run made: its address, and the folder."""
    with tempfile.TemporaryDirectory(prefix="stemma-", dir=runs.parent) as scratch:
        root = Path(scratch) / "runs"
        for name in ("artifacts", "cache"):
            shutil.copytree(runs / name, root / name, copy_function=os.link)
        shutil.copytree(runs / "nano", root / "nano")
        command = [sys.executable, "-m", "stemma.cli", "ui", "--root", str(root), "--port", str(port)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        log = Path(scratch) / "ui.log"
        with open(log, "w") as output:
            ui = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=environment)
            try:
                wait(lambda: "open http" in log.read_text() or ui.poll() is not None, "stemma ui", 300)
                if ui.poll() is not None:
                    raise SystemExit(log.read_text())
                yield f"http://127.0.0.1:{port}", root
            finally:
                ui.terminate()
                ui.wait(180)


def deployments(studio: Studio) -> None:
    """What can be started, its form, its schedules."""
    studio.open("/deployments", "midtrain")
    studio.shoot("ui-deployments")
    nano = f"/deployments/deployment/{studio.deployment('pipeline/nano')}"
    studio.open(f"{nano}/run", "Parameters")
    studio.shoot("ui-form", height=1000)
    studio.open(nano, "Schedules")
    studio.press("Schedule")
    studio.see("Schedule type")
    studio.shoot("ui-schedule", height=1000)


def training(studio: Studio) -> None:
    """A branch that trains, is cancelled, and goes on."""
    run = studio.start(
        "pretrain/nano", run="lower_rate", start_from="stem", from_run="nano", overrides=LOWER_RATE
    )
    deployments(studio)

    def steps() -> int:
        found = studio.artifact(run, "progress-stem")
        match = re.search(r"([\d,]+) of [\d,]+ steps", found["description"]) if found else None
        return int(match[1].replace(",", "")) if match else 0

    wait(lambda: steps() >= 8, "eight steps of training")
    studio.open(f"/flow-runs/flow-run/{run}", "lower_rate")
    studio.timeline()
    studio.shoot("ui-training", height=900)
    studio.press("Cancel")
    studio.press("Confirm")
    studio.until(run, "Cancelled")
    studio.open(f"/flow-runs/flow-run/{run}", "Cancelled")
    studio.timeline()
    studio.press("Retry")
    studio.see("This will retry")
    studio.shoot("ui-retry")
    studio.press("Retry")
    studio.until(run, "Completed")
    studio.open_artifact(run, "stage-stem", "done in")
    studio.shoot("ui-stage", height=1100)
    studio.open_artifact(run, "report-lower-rate", "stages made")
    studio.shoot("ui-run", height=1100)
    studio.open("/artifacts/key/stage-stem", "lower_rate")
    studio.shoot("ui-history", height=500)


def approval(studio: Studio) -> None:
    """A stage that waits for a yes."""
    run = studio.start("sft/nano", run="careful", approve=["sft"], overrides=["sft.steps=40"])
    studio.until(run, "Suspended")
    studio.open(f"/flow-runs/flow-run/{run}", "Suspended")
    studio.press("Resume")
    studio.see("Yes, go on")
    studio.shoot("ui-approve", height=1000)


def inspection(studio: Studio) -> None:
    """A mix, and what differs from another."""
    run = studio.start("inspect-mix/nano", compare_overrides=MORE_CODE)
    studio.until(run, "Completed")
    studio.open_artifact(run, "inspected-nano", "Domains by stage")
    studio.shoot("ui-inspect", 4.0, height=1300)
    studio.open_artifact(run, "difference-nano-nano-changed", "nano")
    studio.shoot("ui-difference", height=900)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="where `make demo` left its run")
    parser.add_argument("--port", type=int, default=4299, help="for the server, on 127.0.0.1")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("scenes", nargs="*", default=list(SCENES), help=f"some of {', '.join(SCENES)}")
    asked = parser.parse_args()
    if not (asked.root / "nano" / "run.json").exists():
        parser.error(f"there is no run nano in {asked.root}: `make demo` makes it, or name another --root")
    asked.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with served(asked.root.absolute(), asked.port) as (url, root), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        studio = Studio(url, browser.new_page(timezone_id="UTC"), asked.out, root)
        for name in asked.scenes:
            SCENES[name](studio)
        browser.close()


LOWER_RATE = ["training.stem.schedule.peak_lr=0.002", "training.stem.schedule.jump=true"]
MORE_CODE = [
    "curriculum.stem.phases=[{name: stable, tokens: 196608, sequence_length: 256, "
    "weights: {web: 20, stem: 30, code: 50}}]"
]
SCENES = {"training": training, "approval": approval, "inspection": inspection}

if __name__ == "__main__":
    main()
