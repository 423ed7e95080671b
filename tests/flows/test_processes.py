"""What happens to flow runs when their processes, the worker's or the server's are stopped or killed."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from flows.keeper import DEATHS, Keeper
from flows.server import ServerError, free_port, server
from pretrain.heartbeat import lives
from tests.flows.test_pipeline_flow import servers, states, task_states, wait_for
from tests.flows.test_ui import Ui, wait_until

STAND_IN = """
import os, subprocess, sys
print(subprocess.Popen([sys.executable, "-m", "flows.guard"], stdout=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""  # for a worker: starts a guard and waits
LONG = [
    "curriculum.commonsense.phases=[{name: stable, tokens: 6000000, sequence_length: 64, "
    "weights: {web: 70, stem: 15, code: 15}}]",
    *(f"curriculum.{stage}.max_epochs=2000" for stage in ("commonsense", "stem", "general", "agentic")),
    "training.commonsense.checkpoint_every=100",
]


@pytest.fixture
def attempt(client, tmp_path, monkeypatch):
    """Start what a worker starts for a run of the toy flow: returns the run, the guard and its parent."""
    from hasty_flow import hasty
    from prefect.deployments.runner import EntrypointType

    monkeypatch.setenv("PREFECT_HOME", os.environ["PREFECT_HOME"])
    made = hasty.to_deployment(
        name=tmp_path.name, parameters={}, entrypoint_type=EntrypointType.MODULE_PATH
    ).apply()
    started = []

    def go(name: str, **texts: str):
        root = tmp_path / name
        run = client.create_flow_run_from_deployment(made, parameters={"root": str(root), **texts})
        worker = subprocess.Popen(
            [sys.executable, "-c", STAND_IN],
            env={**os.environ, "PREFECT__FLOW_RUN_ID": str(run.id)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(worker)
        return run.id, psutil.Process(int(worker.stdout.readline())), worker, root

    yield go
    for worker in started:
        worker.kill()
        worker.communicate()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_flow_ends_once_and_truly_whoever_stops_it(client, attempt) -> None:
    """Six runs at once: called dead by mistake, then asked twice; guard killed; worker killed; a cancelling
    that nobody brings; suspended; retried, so that another process has it."""
    names = ("asked", "guard", "worker", "cancel", "suspended", "taken")
    runs = {name: attempt(name, second="hang") for name in names}
    for _, _, _, root in runs.values():
        wait_for("artifacts/plan.second-*/hanging", root, 240)
    flows = {name: guard.children()[0] for name, (_, guard, _, _) in runs.items()}

    from prefect.states import Cancelling, Crashed, Suspended

    from flows.orphans import LABEL

    runs["guard"][1].kill()
    runs["worker"][2].kill()
    client.set_flow_run_state(runs["cancel"][0], Cancelling())
    client.set_flow_run_state(runs["asked"][0], Crashed(message="no heartbeat"), force=True)
    client.set_flow_run_state(runs["suspended"][0], Suspended(timeout_seconds=600), force=True)
    client.update_flow_run_labels(runs["taken"][0], {LABEL: "elsewhere:1:1.00"})

    def state(name: str):
        return client.read_flow_run(runs[name][0]).state

    wait_until(lambda: state("asked").name == "Running", 60, "a living run has to count as running")
    assert lives(flows["asked"])
    runs["asked"][1].terminate()
    runs["asked"][1].terminate()
    wait_until(lambda: not any(map(lives, flows.values())), 120, "a flow outlived its end")
    ends = {"asked": "Cancelled", "guard": "Crashed", "worker": "Crashed", "cancel": "Cancelled"}
    kept = {
        "suspended": "Suspended",
        "taken": "Running",
    }  # to be resumed; the other process says what becomes of it
    assert {name: state(name).name for name in runs} == ends | kept
    assert "worker is gone. Retry continues" in state("worker").message
    assert "process was killed" in state("guard").message
    for name in ends:
        tasks = task_states(client, client.read_flow_run(runs[name][0]))
        assert tasks["first: write the first"] == "Completed"
        assert tasks["plan.second: write the second"] == state(name).name, "the task ends as its run does"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_was_away_learns_how_it_ended(home, tmp_path) -> None:
    """Killed while a stage works and back on the same port after it is through: nothing is lost."""
    from hasty_flow import hasty
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import EntrypointType
    from prefect.settings import PREFECT_API_URL, temporary_settings

    described = server(tmp_path / "prefect")
    child = described.start()
    root = tmp_path / "runs"
    try:
        with temporary_settings({PREFECT_API_URL: described.url}), get_client(sync_client=True) as client:
            made = hasty.to_deployment(name="away", entrypoint_type=EntrypointType.MODULE_PATH).apply()
            run = client.create_flow_run_from_deployment(
                made, parameters={"root": str(root), "second": "hang until free"}
            )
            environment = {"PREFECT_API_URL": described.url, "PREFECT__FLOW_RUN_ID": str(run.id)}
            guard = subprocess.Popen(
                [sys.executable, "-m", "flows.guard"],
                env={**os.environ, **environment, "PREFECT_HOME": str(tmp_path / "prefect")},
            )
            wait_for("artifacts/plan.second-*/hanging", root, 240)
            child.kill()
            child.wait()
            (root / "free").write_text("")
            wait_for("artifacts/plan.second-*/manifest.json", root, 240)
            child = described.start()
            assert guard.wait(400) == 0
            found = client.read_flow_run(run.id)
            assert found.state.name == "Completed"
            assert set(task_states(client, found).values()) == {"Completed"}
    finally:
        described.stop(child)


def test_who_died_without_a_word_is_buried_and_nobody_else(client, tmp_path, monkeypatch) -> None:
    from prefect import flow, task
    from prefect.states import Cancelling, Crashed, Pending, Running

    from flows import orphans

    @flow(name="unmarked")
    def nothing() -> None:
        """Never run."""

    dead = subprocess.Popen(["true"])
    dead.wait()
    here = orphans.socket.gethostname()

    def run(state, label: str | None):
        made = client.create_flow_run(nothing, state=state)
        if label:
            client.update_flow_run_labels(made.id, {orphans.LABEL: label})
        return made.id

    gone = run(Running(), f"{here}:{dead.pid}:1.00")
    cancelling = run(Cancelling(), f"{here}:{dead.pid}:1.00")
    elsewhere = run(Running(), f"not-{here}:{dead.pid}:1.00")
    starting = run(Pending(), f"{here}:{dead.pid}:1.00")
    alive = run(Running(), None)
    ended = run(Crashed(), f"{here}:{dead.pid}:1.00")  # by its worker, which knows nothing of tasks
    tasks = {
        id: client.create_task_run(task(nothing.fn), id, dynamic_key="0", state=Running()).id
        for id in (gone, ended, alive)
    }
    orphans.mark(alive)
    assert orphans.bury() == 2

    def name(id) -> str:
        return client.read_flow_run(id).state.name

    assert [name(id) for id in (gone, cancelling)] == ["Crashed", "Cancelled"]
    task_names = [client.read_task_run(tasks[id]).state.name for id in (gone, ended, alive)]
    assert task_names == ["Crashed", "Crashed", "Running"]
    assert [name(id) for id in (elsewhere, starting, alive)] == ["Running", "Pending", "Running"]
    made = nothing.to_deployment(name="never", entrypoint_type="module_path").apply()
    queued = client.create_flow_run_from_deployment(made, state=Pending()).id
    assert (orphans.bury(), name(queued)) == (0, "Pending")
    monkeypatch.setattr(orphans, "STARTING_SECONDS", -1.0)
    assert (orphans.bury(), name(queued)) == (0, "Scheduled")


def test_the_automation_is_set_up_once_and_kept_as_changed(client) -> None:
    from flows.automations import NAME, set_up

    assert set_up()
    (made,) = client.read_automations_by_name(NAME)
    assert made.trigger.within <= timedelta(seconds=100), "two minutes is the promise"
    client.request("PATCH", "/automations/{id}", path_params={"id": made.id}, json={"enabled": False})
    assert not set_up()
    (kept,) = client.read_automations_by_name(NAME)
    assert not kept.enabled
    client.delete_automation(made.id)


def test_what_dies_is_started_again_but_not_for_ever(tmp_path) -> None:
    said: list[str] = []

    def start():
        return subprocess.Popen(["sleep", "60"])

    kept = Keeper("worker", start, tmp_path / "worker.log", said.append)
    assert not kept.look()
    for death in range(1, DEATHS + 1):
        kept.child.kill()
        kept.child.wait()
        assert kept.look()
        assert len(said) == death
    assert "was killed by signal 9; starting it again" in said[0]
    kept.child.kill()
    kept.child.wait()
    with pytest.raises(ServerError, match=r"for the 6th time in 10 minutes; its log: .*worker\.log"):
        kept.look()


def test_a_server_that_does_not_come_back_is_tried_again(tmp_path) -> None:
    said: list[str] = []
    results = iter([subprocess.Popen(["sleep", "60"]), ServerError("no"), subprocess.Popen(["sleep", "60"])])

    def start():
        result = next(results)
        if isinstance(result, ServerError):
            raise result
        return result

    kept = Keeper("server", start, tmp_path / "server.log", said.append)
    kept.child.kill()
    kept.child.wait()
    assert kept.look()
    assert kept.look()
    assert not kept.look()
    assert said[1] == "no"
    kept.child.kill()
    kept.child.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_outlives_worker_and_server_and_saves_when_the_ui_ends(migrated, tmp_path, micro) -> None:
    """Worker killed: saved, Crashed, no orphan; Retry: goes on; server killed: trains on; Ctrl-C: saved."""
    from micro_flow import micro as flow
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import EntrypointType
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import AwaitingRetry

    from flows.deployments import POOL
    from flows.guard import COMMAND

    root, port = micro.copy(tmp_path / "runs", before="plan.commonsense"), free_port()
    migrated(root)
    ui = Ui(root, port)
    try:
        url = f"http://127.0.0.1:{port}/api"
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            made = flow.to_deployment(
                name="long",
                parameters={"root": str(root), "stop_after": "commonsense", "overrides": LONG},
                work_pool_name=POOL,
                job_variables={"command": COMMAND, "working_dir": str(Path.cwd())},
                entrypoint_type=EntrypointType.MODULE_PATH,
            ).apply()
            run = client.create_flow_run_from_deployment(made).id
            wait_until(lambda: steps(root) > 20, 240, "it does not train")
            rank = ui.child("pretrain.worker")
            ui.child("worker start").kill()
            wait_until(lambda: not lives(rank), 60, "an orphan trains on")
            wait_until(lambda: client.read_flow_run(run).state.name == "Crashed", 120)
            assert saved(root) == steps(root), "it leaves a checkpoint of its last step"

            client.set_flow_run_state(run, AwaitingRetry(), force=True)  # as the button does
            before = steps(root)
            wait_until(lambda: steps(root) > before + 20, 240, "it does not go on")
            rank = ui.child("pretrain.worker")
            ui.child("uvicorn").kill()
            wait_until(lambda: "the server was killed by signal 9" in str(ui.lines), 60)
            wait_until(lambda: client.hello().status_code == 200, 120)
            before = steps(root)
            wait_until(lambda: steps(root) > before + 5, 60, "it does not train on without the server")
            assert lives(rank)
            assert client.read_flow_run(run).state.name == "Running"
    finally:
        ended = ui.stop()
    assert ended == 0, "".join(ui.lines)
    assert "Traceback" not in "".join(ui.lines)
    assert not lives(rank)
    assert saved(root) == steps(root), "it leaves a checkpoint of its last step"
    wait_until(lambda: servers(root) == [], 30, "a child outlived the UI")
    assert not [name for name, state in states(root) if state in ("Running", "Pending")]
    assert [state for name, state in states(root) if name.startswith("commonsense")] == [
        "Crashed",
        "Cancelled",
    ]
    numbers = [json.loads(line)["step"] for line in receipts(root).read_text().splitlines()]
    assert numbers == list(range(len(numbers))), "no step is missing or done twice"


def receipts(root: Path) -> Path:
    return next(iter(root.glob("artifacts/commonsense-*/receipts.jsonl")), root / "none")


def steps(root: Path) -> int:
    """Steps a training has receipts of."""
    path = receipts(root)
    return len(path.read_text().splitlines()) if path.exists() else 0


def saved(root: Path) -> int:
    """Step of its newest checkpoint."""
    found = root.glob("artifacts/commonsense-*/.scratch/checkpoint/step-*")
    return max((int(path.name.removeprefix("step-")) for path in found if path.suffix == ""), default=-1)
