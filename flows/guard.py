"""``python -m flows.guard``: what a worker starts in place of the process of a flow, and which starts that.

Prefect sends SIGTERM to cancel a flow run, and SIGKILL thirty seconds later; a large model's checkpoint takes
longer. And a worker that is killed says nothing to anybody: its flow runs would train on without it. So the
guard, which is small and holds nothing that can be lost, stands in between: it takes the signals, watches the
worker, and asks the flow's process to stop, once (``flows.line``). Killed itself, it is missed by the flow.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from uuid import UUID

from flows import line

LOOK_SECONDS = 0.5  # between looks at the worker
LAST_BYTES = 4000
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
GUARD = "-m flows.guard"
COMMAND = f"{shlex.quote(sys.executable)} {GUARD}"  # the job variable ``command`` of a process pool


def guard() -> int:
    """Run the flow in a child and wait for its end; returns its exit code."""
    worker = os.getppid()
    ear, mouth = os.pipe()
    open_line = True

    def tell(word: str) -> None:
        nonlocal open_line
        if open_line:
            open_line = False
            os.write(mouth, word.encode())

    def stop(number: int, frame: FrameType | None) -> None:
        tell("stop" if os.getppid() == worker else "worker")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    log = _log()
    with open(log, "ab") as output:
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.guard", str(ear)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[ear],
            start_new_session=True,
        )
    os.close(ear)
    while True:
        try:
            code = flow.wait(LOOK_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if os.getppid() != worker:
                tell("worker")
    _leave_nothing(flow.pid)
    _conclude(log, code)
    return code if code >= 0 else 128 - code


def run_flow(ear: int) -> None:
    """The child's side: what ``python -m prefect.engine`` does for the flow run of the environment.

    That one logs a traceback for every run that ends as failed or cancelled, after all was said.
    """
    line.hold(ear)
    from prefect._internal.control_listener import configure_from_env
    from prefect.engine import handle_engine_signals
    from prefect.flow_engine import flow_run_logger, load_flow, load_flow_run
    from prefect.flow_engine import run_flow as run

    from flows.orphans import mark

    name = UUID(os.environ[FLOW_RUN])
    mark(name)  # before it counts as running: what is unmarked is nobody's
    configure_from_env()  # the worker says by this channel that a SIGTERM is to cancel
    with handle_engine_signals(name):
        flow_run = load_flow_run(flow_run_id=name)
        logger = flow_run_logger(flow_run=flow_run)
        try:
            flow = load_flow(flow_run)
        except Exception:
            logger.exception("the flow cannot be loaded")
            raise
        run(flow, flow_run=flow_run, return_type="state", error_logger=logger)


def _log() -> Path:
    """Where the flow's process writes: not into the worker's pipe, which breaks with the worker."""
    folder = Path(os.environ["PREFECT_HOME"]) / "flow-runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{os.environ[FLOW_RUN]}.log"


def _leave_nothing(group: int) -> None:
    """End what the flow's process left behind in its session (workers of data pipelines)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _conclude(log: Path, code: int) -> None:
    """Drop the log of a flow that ended well: Prefect has its lines. Of another, tell the worker the end."""
    if code == 0:
        log.unlink(missing_ok=True)
        return
    try:
        sys.stderr.write(log.read_bytes()[-LAST_BYTES:].decode(errors="replace"))
        sys.stderr.flush()
    except OSError:  # the worker is gone; the log stays
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        run_flow(int(sys.argv[1]))
    else:
        sys.exit(guard())
