import contextvars
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from stemma.core.errors import Preempted, StemmaError
from stemma.core.progress import STEP, Event

DEMO = """
import sys
from pathlib import Path
from toy_chain import make_run
from flows.pipeline_flow import run_pipeline
root, second = sys.argv[1:]
def show(event):
    print(event.kind, event.stage, flush=True)
run_pipeline(make_run(root, second=second), listeners=[show])
"""


def flow_runs(client, root: Path):
    return [run for run in client.read_flow_runs() if run.parameters.get("root") == str(root)]


def task_states(client, flow_run) -> dict[str, str]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    return {run.name: run.state.name for run in client.read_task_runs(flow_run_filter=only)}


def artifacts(client, flow_run) -> dict[str, object]:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    return {found.key: found for found in client.read_artifacts(artifact_filter=only)}


@pytest.fixture
def run(client, tmp_path):
    from toy_chain import make_run

    from flows.pipeline_flow import run_pipeline

    def go(events=None, stop_after="", **texts):
        walk = make_run(tmp_path, **texts)
        run_pipeline(walk, stop_after=stop_after, listeners=[events.append] if events is not None else [])
        return walk

    return go


def test_every_node_is_a_task_with_its_artifacts(client, run, tmp_path) -> None:
    events = []
    walk = run(events)
    assert list(walk.artifacts) == ["first", "plan.second", "third"]
    (flow_run,) = flow_runs(client, tmp_path)
    assert (flow_run.name, flow_run.state.name) == ("toy", "Completed")
    names = ["first: write the first", "plan.second: write the second", "third: write the third"]
    assert task_states(client, flow_run) == dict.fromkeys(names, "Completed")
    shown = artifacts(client, flow_run)
    assert {(found.type, key) for key, found in shown.items()} == {
        *(
            (kind, f"{prefix}-{node}")
            for node in ("first", "plan-second", "third")
            for kind, prefix in (("progress", "progress"), ("markdown", "stage"), ("table", "mix"))
        ),
        ("markdown", "report-toy"),
    }
    assert shown["progress-first"].data == 100.0
    assert "first · done · 4 of 4 steps · loss 2.600" in shown["progress-first"].description
    assert walk.artifacts["third"].fingerprint[:12] in shown["report-toy"].data
    assert json.loads(shown["mix-first"].data)[0]["planned tokens"] == 100
    assert Counter(event.kind for event in events)["sealed"] == 3
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id])))
    assert sum(log.message.endswith(": almost done") for log in logs) == 3


def test_a_second_run_only_verifies(client, run, tmp_path) -> None:
    first = run().artifacts
    events = []
    assert run(events).artifacts == first
    assert [event.kind for event in events] == ["skipped"] * 3
    assert [found.state.name for found in flow_runs(client, tmp_path)] == ["Completed", "Completed"]


def test_stop_after(client, run, tmp_path) -> None:
    assert list(run(stop_after="plan.second").artifacts) == ["first", "plan.second"]
    (flow_run,) = flow_runs(client, tmp_path)
    assert flow_run.parameters["stop_after"] == "plan.second"
    with pytest.raises(StemmaError, match="no stage 'fourth'"):
        run(stop_after="fourth")
    assert len(flow_runs(client, tmp_path)) == 1, "a wrong name is refused before a flow run exists"


def test_a_failure_is_shown_raised_as_it_was_and_resumed(client, run, tmp_path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        run(second="fail")
    (flow_run,) = flow_runs(client, tmp_path)
    assert flow_run.state.name == "Failed"
    assert "on purpose" in flow_run.state.message
    states = task_states(client, flow_run)
    assert states == {"first: write the first": "Completed", "plan.second: write the second": "Failed"}
    events = []
    run(events)
    assert (events[0].kind, events[0].stage) == ("skipped", "first")


def test_a_run_asked_to_stop_is_cancelled_not_failed(client, run, tmp_path) -> None:
    with pytest.raises(Preempted, match="asked to stop"):
        run(second="preempt")
    (flow_run,) = flow_runs(client, tmp_path)
    assert flow_run.state.name == "Cancelled"
    assert "run the same command again" in flow_run.state.message


def test_listeners_are_handed_back(client, run) -> None:
    events = []
    walk = run(events)
    assert walk.listeners == []


def test_a_lost_server_neither_stops_the_work_nor_slows_it(home, caplog) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.board import Board
    from flows.events import TaskListener
    from flows.server import free_port

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        board = Board(logging.getLogger("test"))  # keeps the settings it was made under
        listener = TaskListener("stem", logging.getLogger("test"), board)
        began = time.monotonic()
        for step in range(200):
            listener.updated = 0.0
            listener(Event("stem", "step", step=step, total=200, unit="steps"))
        assert time.monotonic() - began < 2
        board.close()
    complaints = [record for record in caplog.records if "does not take progress" in record.message]
    assert len(complaints) == 1


def test_progress_is_rate_limited_and_ends_at_the_whole(client, server) -> None:
    from prefect import flow

    from flows.board import Board
    from flows.events import TaskListener

    @flow
    def speaking():
        logger = logging.getLogger("test")
        started = time.monotonic()
        with Board(logger) as board:
            listener = TaskListener("busy", logger, board)
            for step in range(2000):
                metrics = {"loss": 1.0, "tokens": 64 * step}
                listener(Event("busy", "step", step=step, total=2000, unit="steps", metrics=metrics))
            listener(Event("busy", "sealed", text="busy-0"))
        return board.made["progress-busy"], time.monotonic() - started

    artifact, elapsed = speaking()
    assert elapsed < 6, "2,000 updates would take over 10 seconds"
    found = next(item for item in client.read_artifacts() if item.id == artifact)
    assert found.data == 100.0
    assert "busy · done · 1,999 of 2,000 steps · 127,936 tokens · loss 1.000" in found.description


def start(root: Path, second: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", DEMO, str(root), second],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def states(root: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(root / "prefect" / "prefect.db") as database:
        flows = database.execute("select name, state_name from flow_run order by created").fetchall()
        tasks = database.execute("select name, state_name from task_run order by created").fetchall()
    return [*flows, *tasks]


def wait_for(path_glob: str, root: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not list(root.glob(path_glob)):
        assert time.monotonic() < deadline, f"{path_glob} did not appear"
        time.sleep(0.05)


def servers(root: Path) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if (
            environment.get("PREFECT_HOME") == str(root / "prefect")
            and process.status() != psutil.STATUS_ZOMBIE
        ):
            found.append(process.info["pid"])
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_server_killed_stopped_and_finished(migrated, tmp_path) -> None:
    """As a user meets it: no server, a silent stderr, nothing left behind, a history that tells the truth."""
    migrated(tmp_path)
    killed = start(tmp_path, "hang")
    wait_for("artifacts/plan.second-*/hanging", tmp_path)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    deadline = time.monotonic() + 60
    while servers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert servers(tmp_path) == [], "the server must not outlive a killed run"
    assert states(tmp_path)[0] == ("toy", "Running")
    for path in tmp_path.glob("artifacts/*/hanging"):
        path.unlink()

    stopped = start(tmp_path, "hang")
    wait_for("artifacts/plan.second-*/hanging", tmp_path)
    os.killpg(stopped.pid, signal.SIGINT)
    out, err = stopped.communicate(timeout=200)
    assert stopped.returncode != 0
    assert "KeyboardInterrupt" in err
    assert "Error logging to API" not in err
    assert "skipped first" in out

    done = start(tmp_path, "second")
    out, err = done.communicate(timeout=200)
    assert (done.returncode, err) == (0, "")
    assert out.splitlines()[0] == "skipped first"
    assert servers(tmp_path) == []
    assert states(tmp_path)[:3] == [("toy", "Crashed"), ("toy", "Crashed"), ("toy", "Completed")]
    assert not [name for name, state in states(tmp_path) if state in ("Running", "Pending")]


def test_events_of_another_thread_belong_to_the_task_run_too() -> None:
    """The tokenizer's trainer reports from a thread that Prefect knows nothing of."""
    from flows.events import TaskListener

    run = contextvars.ContextVar("run", default="none")
    run.set("mine")
    seen: list[str] = []
    board = SimpleNamespace(progress=lambda *_: seen.append(run.get()))
    listener = TaskListener("tokenizer", logging.getLogger("test"), board)
    thread = threading.Thread(target=listener, args=(Event("tokenizer", STEP, step=1, total=2),))
    thread.start()
    thread.join()
    assert seen == ["mine"]
