import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows.server import ServerError, free_port, is_healthy, running, serving

HERE = Path(__file__).parent
UI = """
import sys
from pathlib import Path
from flows.ui import serve
serve(Path(sys.argv[1]), int(sys.argv[2]), say=lambda line: print(line, flush=True))
"""


def wait_until(condition, seconds: float = 120, what: str = "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what or "it did not happen in time"
        time.sleep(0.2)


def test_a_taken_port_is_said_before_anything_starts(home, tmp_path) -> None:
    import socket

    from flows.ui import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServerError, match=rf"port {taken.getsockname()[1]} .* is taken.*--port"):
            serve(tmp_path, taken.getsockname()[1], say=lambda line: None)


def test_a_server_that_cannot_start_shows_its_log(home, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "nonsense://nowhere")
    with pytest.raises(ServerError, match=r"ended with code(.|\n)*server\.log"), serving(tmp_path):
        pass


def test_a_stale_record_of_a_server_is_not_believed(tmp_path) -> None:
    assert running(tmp_path) == ""
    (tmp_path / "stemma-server.json").write_text(f'{{"url": "http://127.0.0.1:{free_port()}/api"}}')
    assert running(tmp_path) == ""
    (tmp_path / "stemma-server.json").write_text("half a rec")
    assert running(tmp_path) == ""


class Ui:
    """``stemma ui`` in a process of its own."""

    def __init__(self, root: Path, port: int) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        paths = [str(Path(__file__).parents[2]), environment["PYTHONPATH"]]
        self.process = subprocess.Popen(
            [sys.executable, "-c", UI, str(root), str(port)],
            env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self.reader.start()
        try:
            wait_until(lambda: "deployments:" in str(self.lines) or self.process.poll() is not None, 300)
            assert self.process.poll() is None, "".join(self.lines)
        except BaseException:
            self.process.kill()  # the server and the worker are tied to it
            raise

    def child(self, what: str) -> psutil.Process | None:
        """The process below it whose command line holds something."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if what in " ".join(process.cmdline()):
                    return process
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return None

    def stop(self) -> int:
        """Press Ctrl-C and wait for the end; returns its code."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(300)
        finally:
            self.process.kill()  # does nothing if it ended
            self.reader.join(10)


def parameters(deployment) -> dict:
    return deployment.parameter_openapi_schema["properties"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_the_form_to_a_finished_run(home, tmp_path) -> None:
    """Server with UI, worker, deployments; runs started as the form does; Ctrl-C ends it all."""
    port = free_port()
    ui = Ui(tmp_path, port)
    try:
        _use(f"http://127.0.0.1:{port}", tmp_path)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert b"<html" in page.read().lower()
        # A second one on the same folder, and a demo meanwhile, find the first.
        assert running(tmp_path / "prefect") == f"http://127.0.0.1:{port}/api"
    finally:
        ended = ui.stop()
    assert ended == 0, "".join(ui.lines)
    assert "Traceback" not in "".join(ui.lines)
    assert not is_healthy(f"http://127.0.0.1:{port}/api")
    assert not (tmp_path / "prefect" / "stemma-server.json").exists()
    from test_pipeline_flow import servers, states

    wait_until(lambda: servers(tmp_path) == [], 30, "a child outlived the UI")
    unended = [(name, state) for name, state in states(tmp_path) if state in ("Running", "Pending")]
    assert not unended, "what was stopped with the UI must not count as running"


def _use(address: str, root: Path) -> None:
    from hasty_flow import hasty
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import EntrypointType
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Cancelling

    from flows.deployments import POOL
    from flows.guard import COMMAND

    with temporary_settings({PREFECT_API_URL: f"{address}/api"}), get_client(sync_client=True) as client:
        nano = client.read_deployment_by_name("pipeline/nano")
        form = parameters(nano)
        assert "nano" in form["profile"]["enum"]
        assert form["stop_after"]["enum"][-1] == form["stop_after"]["default"] == "export"
        assert all(form[name]["description"] for name in ("profile", "stop_after", "overrides", "root"))
        assert nano.parameters == {"profile": "nano", "root": str(root)}

        made = hasty.to_deployment(
            name="toy",
            parameters={"root": str(root)},
            work_pool_name=POOL,
            job_variables={"command": COMMAND},  # as every deployment of ours
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        deployment = made.apply()

        def final(run):
            state = client.read_flow_run(run.id).state
            return state if state.is_final() else None

        good = client.create_flow_run_from_deployment(deployment)
        wrong = client.create_flow_run_from_deployment(
            nano.id, parameters={"profile": "nano", "root": str(root), "overrides": ["nonsense=1"]}
        )
        wait_until(lambda: final(good) and final(wrong), 240, "the runs did not end")
        assert final(good).name == "Completed", final(good).message
        assert "artifacts" in {path.name for path in root.iterdir()}
        from test_pipeline_flow import artifacts, task_states

        flow_run = client.read_flow_run(good.id)
        assert set(task_states(client, flow_run).values()) == {"Completed"}
        assert {"report-toy", "progress-first", "mix-third"} <= set(artifacts(client, flow_run))
        assert final(wrong).name == "Failed"
        assert "nonsense" in final(wrong).message

        # Cancelled by the button; and one that hangs is asked to stop when the UI is.
        hanging = {"root": str(root), "second": "hang"}
        cancelled = client.create_flow_run_from_deployment(deployment, parameters=hanging)
        wait_until(lambda: list(root.glob("artifacts/plan.second-*/hanging")), 120)
        client.set_flow_run_state(cancelled.id, Cancelling())
        wait_until(lambda: final(cancelled), 120, "it hangs in Cancelling")
        assert final(cancelled).name == "Cancelled"
        for path in root.glob("artifacts/plan.second-*/hanging"):
            path.unlink()
        client.create_flow_run_from_deployment(deployment, parameters=hanging)
        wait_until(lambda: list(root.glob("artifacts/plan.second-*/hanging")), 120)
