"""``python -m flows.pools.slurm OPTIONS``: carry out a flow run as a batch job of Slurm.

What a process worker on a login node starts in place of a flow's process, as the job template ``slurm.yaml``
says. It submits a job that runs the flow (by ``flows.guard``, as on the worker's own machine), waits for its
end and passes a stop on. Should it or the worker be killed, the job goes on: it talks to the server itself,
and the UI can still cancel it.
"""

import argparse
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from uuid import UUID

from stemma.core.errors import StemmaError
from stemma.core.lifeline import die_with

FLOW_RUN = "PREFECT__FLOW_RUN_ID"
# The worker's line to a flow's process, on the worker's own loopback.
WORKERS_OWN = ("PREFECT__CONTROL_PORT", "PREFECT__CONTROL_TOKEN")
FIRST_LOOK, LONGEST_LOOK = 1.0, 10.0  # seconds between looks at the queue; the controller serves many
Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]
LOST_AFTER = 3  # looks in a row at which the controller knows no such job, before it counts as ended


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, as ``slurm.yaml`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--cpus-per-node", type=int, default=0)
    parser.add_argument("--memory-per-node", default="")
    parser.add_argument("--time", default="1-00:00:00")
    parser.add_argument("--warning-seconds", type=int, default=600)
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("options", nargs="*", help="further options of sbatch")
    return parser.parse_args(arguments)


def script(asked: argparse.Namespace, name: str, log: Path) -> str:
    """The batch script that runs a flow.

    Args:
        asked: what ``parse`` returned.
        name: of the job.
        log: takes what the job prints.
    """
    options = {
        "job-name": name,
        "output": str(log),
        "open-mode": "append",
        "nodes": str(asked.nodes),
        "ntasks-per-node": "1",
        "gpus-per-node": asked.gpus_per_node or "",
        "cpus-per-task": asked.cpus_per_node or "",
        "mem": asked.memory_per_node,
        "time": asked.time,
        # To the batch script alone, which passes it on: a signal to the ranks as well would reach them twice.
        "signal": f"B:TERM@{asked.warning_seconds}" if asked.warning_seconds else "",
        "partition": asked.partition,
        "account": asked.account,
    }
    lines = [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in options.items() if value]
    # After the death of a node people (or the heartbeat's automation) decide; Slurm would begin again unseen.
    lines += ["#SBATCH --no-requeue", *(f"#SBATCH {option}" for option in asked.options)]
    root = shlex.quote(str(Path(__file__).resolve().parents[2]))
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            f"export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}",
            'export PREFECT_HOME="${PREFECT_HOME:-$HOME/.prefect}"',
            f"exec {shlex.quote(asked.python)} -m flows.guard",
            "",
        ]
    )


class Job:
    """A batch job.

    Args:
        number: as Slurm counts them.
    """

    def __init__(self, number: str) -> None:
        self.number = number

    def state(self) -> str:
        """Such as PENDING or RUNNING; "" if it is not in the queue, UNKNOWN if the controller is silent."""
        code, out, error = slurm("squeue", "--noheader", "--format=%T", "--jobs", self.number)
        if code:
            return "" if "Invalid job id" in error else "UNKNOWN"
        return out.strip()

    def stop(self) -> None:
        """Ask it to end: one that waits ends at once, one that runs writes a checkpoint first."""
        slurm("scancel", "--state=PENDING", self.number)
        slurm("scancel", "--batch", "--signal=TERM", self.number)

    def exit_code(self) -> int:
        """Of an ended job: its script's, 1 if Slurm ended it or no longer knows."""
        _, out, _ = slurm("scontrol", "--oneliner", "show", "job", self.number)
        told = dict(word.partition("=")[::2] for word in out.split())
        if told.get("JobState") == "COMPLETED":
            return 0
        code, _, number = told.get("ExitCode", "1:0").partition(":")
        return int(code) or (128 + int(number) if int(number or 0) else 1)


def slurm(*words: str, given: str = "") -> tuple[int, str, str]:
    """Exit code, output and errors of a Slurm command.

    Raises:
        StemmaError: it is not installed.
    """
    try:
        # In a session of its own: a signal to our group would end it in the middle.
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, check=False, start_new_session=True
        )
    except FileNotFoundError as error:
        raise StemmaError(
            f"`{words[0]}` is not on this machine: a worker of the Slurm pool belongs on a login node"
        ) from error
    return done.returncode, done.stdout, done.stderr


def jobs_named(name: str) -> list[Job]:
    """The jobs of a name that have not ended."""
    _, out, _ = slurm("squeue", "--noheader", "--format=%A", "--name", name)
    return [Job(number) for number in out.split()]


def submit(text: str) -> Job:
    """Submit a script.

    Raises:
        StemmaError: Slurm refuses it, or is not there.
    """
    for name in WORKERS_OWN:
        os.environ.pop(name, None)
    code, out, error = slurm("sbatch", "--parsable", given=text)
    if code:
        raise StemmaError(f"sbatch refuses the job: {error.strip()}")
    return Job(out.strip().split(";")[0])


def wait(job: Job, stopping: threading.Event, say: Logger) -> None:
    """Return when a job has ended; ask it to end once ``stopping`` is set."""
    pause, unseen, before, asked = FIRST_LOOK, 0, "", False
    while unseen < LOST_AFTER:
        if stopping.is_set() and not asked:
            asked, pause = True, FIRST_LOOK
            job.stop()
        state = job.state()
        if state and state != before:
            say.info("Slurm job %s: %s", job.number, state.lower())
            pause, before = FIRST_LOOK, state
        unseen = 0 if state else unseen + 1
        # A job that is being stopped is waited for without the event, which would not wait any more.
        (threading.Event() if asked else stopping).wait(FIRST_LOOK if unseen else pause)
        pause = min(LONGEST_LOOK, pause * 1.5)


def run(asked: argparse.Namespace, flow_run: str, say: Logger) -> int:
    """Submit the job of a flow run, wait for its end, return its exit code."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    name = f"stemma-{flow_run}"
    for earlier in jobs_named(name):  # of a worker that was killed; the run was started again since
        say.info("Slurm job %s of this run still goes on; it is asked to stop", earlier.number)
        earlier.stop()
        wait(earlier, threading.Event(), say)
    asked.logs.mkdir(parents=True, exist_ok=True)
    log = asked.logs.absolute() / f"{flow_run}.log"
    job = submit(script(asked, name, log))
    say.info("submitted as Slurm job %s on %d nodes; it prints to %s", job.number, asked.nodes, log)
    wait(job, stopping, say)
    code = job.exit_code()
    if code:
        say.error(f"Slurm job {job.number} ended with code {code}; see {log}, and `sacct -j {job.number}`")
    return code


def main() -> int:
    die_with(os.getppid())
    asked = parse(sys.argv[1:])
    from prefect.logging.configuration import setup_logging
    from prefect.logging.handlers import APILogWorker
    from prefect.logging.loggers import flow_run_logger

    setup_logging()  # what is said here belongs to the flow run's log, and no engine runs here to see to that
    flow_run = os.environ[FLOW_RUN]
    say = flow_run_logger(flow_run_id=UUID(flow_run))
    try:
        return run(asked, flow_run, say)
    except StemmaError as error:
        say.error(str(error))
        return error.exit_code
    finally:
        APILogWorker.drain_all(timeout=10.0, at_exit=False)


if __name__ == "__main__":
    sys.exit(main())
