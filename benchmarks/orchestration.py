"""What orchestration costs: a flow beside the same stages run directly, pages of the UI with a thousand runs
in its database, and the inspection of a mix.

    python -m benchmarks.orchestration [overhead] [pages] [inspect] [--rounds 3] [--runs 1000]

``overhead`` makes the chain of tests/micro.yaml up to its first training stage once. Then it runs that stage
from the same inputs with `stemma run` and `stemma demo` in turns (what a flow costs while something trains, a
server's start and end included), and both again on what is finished: what is constant.
"""

import argparse
import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil

CHROMIUM = "chromium"
NANO_SECONDS = 756.0  # of `make demo`, idle
LIMIT_SHARE, LIMIT_SECONDS, LIMIT_PAGE, LIMIT_INSPECT = 0.05, 15.0, 2.0, 60.0
STAGE, KEY = "commonsense", "report-nano"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="*", default=["overhead", "pages", "inspect"])
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")
    parser.add_argument("--runs", type=int, default=1000, help="flow runs in the database")
    asked = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "overhead": lambda root: overhead(root, asked.rounds),
        "pages": lambda root: pages(root, asked.runs, asked.rounds),
        "inspect": inspect,
    }
    for what in asked.what:
        with tempfile.TemporaryDirectory() as folder:
            parts[what](Path(folder))


def verdict(value: float, limit: float) -> str:
    return "within" if value <= limit else "OVER"


def timed(*command: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "stemma.cli", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds


def overhead(root: Path, rounds: int) -> None:
    from tests.micro import PROFILE

    def stage(kind: str, folder: Path, last: str = STAGE) -> float:
        return timed(kind, "--profile", str(PROFILE), "--root", str(folder), "--stop-after", last)

    made = root / "made"
    stage("run", made, f"plan.{STAGE}")
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for kind in ("run", "demo") if number % 2 == 0 else ("demo", "run"):
            folder = root / f"{kind}{number}"
            shutil.copytree(made, folder, copy_function=os.link)
            taken.setdefault(("trains", kind), []).append(stage(kind, folder))
            taken.setdefault(("is finished", kind), []).append(stage(kind, folder))
            shutil.rmtree(folder)
    print(f"the chain of micro up to {STAGE}, {rounds} rounds, medians, seconds")
    print(f"{'':14}{'directly':>10}{'as a flow':>11}{'more':>8}")
    more = {}
    for what in ("trains", "is finished"):
        direct, flow = (statistics.median(taken[what, kind]) for kind in ("run", "demo"))
        more[what] = statistics.median(b - a for a, b in zip(taken[what, "run"], taken[what, "demo"]))
        print(f"{what:14}{direct:10.1f}{flow:11.1f}{more[what]:8.1f}")
    worst = max(more.values())
    share = worst / NANO_SECONDS
    print(f"a flow takes {worst:.1f} s more: {verdict(worst, LIMIT_SECONDS)} {LIMIT_SECONDS:.0f} s")
    of_nano = f"{share:.1%} of a nano run of {NANO_SECONDS:.0f} s"
    print(f"{of_nano}: {verdict(share, LIMIT_SHARE)} {LIMIT_SHARE:.0%}\n")


@contextlib.contextmanager
def ui(root: Path) -> Iterator[str]:
    """A server with its UI; yields its API's URL."""
    from flows.environment import prepare

    prepare(root)
    from flows.server import serving

    with serving(root / "prefect", ui=True) as url:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: url}):
            yield url


def pages(root: Path, runs: int, rounds: int) -> None:
    from playwright.sync_api import sync_playwright

    os.environ["PREFECT_HOME"] = str(root / "prefect")
    with ui(root) as url:
        from flows.deployments import register

        register(root, print)
        started = time.perf_counter()
        flow_run, key = _fill(root / "prefect" / "prefect.db", runs)
        print(f"{runs} flow runs with artifacts made in {time.perf_counter() - started:.0f} s")
        page_of = {
            "runs": ("/runs", "text=run-"),
            "a run": (f"/runs/flow-run/{flow_run}", "text=run-0"),
            "deployments": ("/deployments", "text=nano"),
            "artifacts": ("/artifacts", f"text={key}"),
            "history of an artifact": (f"/artifacts/key/{key}", f"text={key}"),
        }
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which(CHROMIUM), args=["--no-sandbox"], headless=True
            )
            context = browser.new_context()
            print(f"{'page, s until its content is there':36}{'first':>8}{'median':>8}{'worst':>8}{'CPU':>8}")
            context.new_page().goto(url.removesuffix("/api"))  # what a browser keeps of the UI itself
            for name, (path, content) in page_of.items():
                taken, cores = [], []
                for _ in range(rounds):
                    page = context.new_page()
                    start, busy = time.perf_counter(), cpu_seconds()
                    page.goto(url.removesuffix("/api") + path, wait_until="commit")
                    page.wait_for_selector(content, timeout=60_000)
                    taken.append(time.perf_counter() - start)
                    cores.append(cpu_seconds() - busy)
                    page.close()
                median = statistics.median(taken)
                figures = f"{taken[0]:8.2f}{median:8.2f}{max(taken):8.2f}{statistics.median(cores):8.2f}"
                print(f"{name:36}{figures}  {verdict(median, LIMIT_PAGE)} {LIMIT_PAGE:.0f} s")
            browser.close()
    print()


def cpu_seconds() -> float:
    """Of the server and the browser so far: what a page takes of the cores, however busy the machine is."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _fill(database: Path, runs: int) -> tuple[str, str]:
    """Flow runs of ``pipeline/nano``: one in each state with an artifact, by the API; copies of their rows.

    Returns:
        The first one's id, and the artifacts' key.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.states import Cancelled, Completed, Crashed, Failed

    states = (Completed(), Failed(message="x"), Crashed(message="x"), Cancelled())
    made = []
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("pipeline/nano")
        for number, state in enumerate(states):
            run = client.create_flow_run_from_deployment(deployment.id, name=f"run-{number}", state=state)
            report = ArtifactCreate(key=KEY, type="markdown", data=f"# Run {number}\n", flow_run_id=run.id)
            client.create_artifact(report)
            made.append(str(run.id))
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.row_factory = sqlite3.Row
        for number in range(len(states), runs):
            _copy(connection, made[number % len(states)], f"run-{number}")
    return made[0], KEY


def _copy(connection: sqlite3.Connection, run: str, name: str) -> None:
    """Copy a flow run with its states and artifacts."""
    new, state = str(uuid4()), str(uuid4())
    for table, where, changed in (
        ("flow_run", "id", {"id": new, "name": name, "state_id": state, "idempotency_key": new}),
        ("flow_run_state", "flow_run_id", {"id": state, "flow_run_id": new}),
        ("artifact", "flow_run_id", {"id": str(uuid4()), "flow_run_id": new}),
    ):
        row = connection.execute(f"SELECT * FROM {table} WHERE {where} = ?", (run,)).fetchone()
        values = {**dict(row), **changed}
        marks = ", ".join("?" * len(values))
        connection.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
        )


INSPECT = """
import sys, time
from pathlib import Path
from flows.environment import prepare
prepare(Path(sys.argv[1]))
from flows.server import serving
started = time.perf_counter()
with serving(Path(sys.argv[1]) / "prefect") as url:
    from prefect.settings import PREFECT_API_URL, temporary_settings
    with temporary_settings({PREFECT_API_URL: url}):
        from flows.inspect_mix import inspect_mix
        begun = time.perf_counter()
        inspect_mix(root=sys.argv[1])
        print("seconds", time.perf_counter() - begun)
"""


def inspect(root: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", INSPECT, str(root)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
    seconds = float(done.stdout.split()[-1])
    print(
        f"inspect-mix of nano, nothing made before: {seconds:.0f} s ({verdict(seconds, LIMIT_INSPECT)} "
        f"{LIMIT_INSPECT:.0f} s)\n"
    )


if __name__ == "__main__":
    main()
