"""The stage's side of training: start torchrun on a job, pass on its progress, stop it in good order.

Torch is never imported here. The processes form a chain, each tied to the one before by
``pretrain.lifeline``: stage -> torchrun -> one worker per rank. A job travels as ``job.json``, progress
comes back through ``events.jsonl``, the summary through ``result.json``: all in the scratch folder.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import Field

import stemma.core.errors
from pretrain.config import ModelConfig, TrainingConfig
from stemma.core.config import Config
from stemma.core.errors import Preempted, StageFailed, StemmaError
from stemma.core.files import read_json, write_atomic
from stemma.core.progress import EventTail
from stemma.core.stage import Execution, Workspace

POLL_SECONDS = 0.1
GRACE_SECONDS = 600  # a large model's checkpoint takes its time; SIGKILL only after that
LOG_LINES = 25

JOB, EVENTS, RESULT, LOG = "job.json", "events.jsonl", "result.json", "worker.log"


class Job(Config):
    """All a worker needs to know. JSON in the stage's scratch folder."""

    stage: str = Field(description="the node's name, as progress and messages say it")
    entry: str = Field(description="`module:function`; function(job, engine) returns the objective")
    arguments: dict[str, Any] = Field(description="what the entry reads: plain JSON")
    model: ModelConfig = Field(description="the model's shape")
    training: TrainingConfig = Field(description="how the stage trains it")
    execution: Execution = Field(description="ranks and threads")
    path: str = Field(description="the artifact's folder")
    scratch: str = Field(description="the stage's scratch folder")
    init: str | None = Field(description="the `checkpoint` folder to start from; null: fresh weights")
    tokenizer: str = Field(description="folder of the tokenizer artifact")
    validation: list[str] = Field(
        description="folders of tokens artifacts with held-out text; none: no validation"
    )


def launch(
    name: str,
    work: Workspace,
    entry: str,
    arguments: dict[str, Any],
    *,
    model: ModelConfig,
    training: TrainingConfig,
    tokenizer: Path,
    init: Path | None = None,
    validation: Sequence[Path] = (),
) -> dict[str, Any]:
    """Train one stage in processes of its own and return its summary.

    Args:
        name: the stage's name.
        work: the stage's workspace; its folder receives the results, its scratch folder the checkpoints.
        entry: ``module:function``, called in every rank as ``function(job, engine)``; returns the objective.
        arguments: reach the entry as ``job.arguments``; plain JSON.
        model: the model's shape.
        training: how to train it.
        tokenizer: folder of the tokenizer artifact.
        init: folder of a trained artifact to start from; None: fresh weights.
        validation: tokens artifacts whose held-out text bits per byte are measured on, before and after.

    Raises:
        Preempted: SIGTERM or Ctrl-C came; a checkpoint was written.
        StageFailed: a rank failed; holds its traceback or the end of the log, and says where the log is.
        StemmaError: a rank raised this error, which explains itself.
    """
    scratch = work.scratch
    job = Job(
        stage=name,
        entry=entry,
        arguments=arguments,
        model=model,
        training=training,
        execution=work.execution,
        path=str(work.path),
        scratch=str(scratch),
        init=str(init / "checkpoint") if init else None,
        tokenizer=str(tokenizer),
        validation=[str(folder) for folder in validation],
    )
    write_atomic(scratch / JOB, job.model_dump_json(indent=1) + "\n")
    for stale in [scratch / RESULT, *scratch.glob("failure.*.json")]:
        stale.unlink(missing_ok=True)
    log = scratch / LOG
    tail = EventTail(scratch / EVENTS)
    with open(log, "ab") as output, _termination() as terminated:
        log_start = output.tell()
        child = subprocess.Popen(
            _command(scratch / JOB, work.execution),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(work.execution),
            start_new_session=True,
        )
        try:
            while child.poll() is None and not terminated.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
                for event in tail.poll():
                    work.progress.emit(event)
        except KeyboardInterrupt:
            terminated.set()
        finally:
            _stop(child)  # also when a listener raised: nothing may go on without us
    for event in tail.poll():
        work.progress.emit(event)
    result = read_json(scratch / RESULT) if (scratch / RESULT).exists() else None
    if result and result["status"] == "done":
        return dict(result["summary"])
    if terminated.is_set() or (result and result["status"] == "preempted"):
        reached = f"a checkpoint at step {result['step']}" if result else "what was saved before"
        raise Preempted(f"{name} was asked to stop; run the same command again to continue from {reached}")
    raise _failure(name, child.returncode, scratch, log, log_start)


def _command(job: Path, execution: Execution) -> list[str]:
    """torchrun on the worker, tied to this process."""
    if execution.nodes > 1:
        rendezvous = [
            f"--nnodes={execution.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={execution.rendezvous}",
            f"--rdzv-id={job.parent.parent.name}",
        ]
    else:
        rendezvous = ["--standalone"]
    per_node = execution.ranks // execution.nodes
    torchrun = [*rendezvous, f"--nproc-per-node={per_node}", "-m", "pretrain.worker", str(job)]
    return [sys.executable, "-m", "pretrain.lifeline", str(os.getpid()), *torchrun]


def _environment(execution: Execution) -> dict[str, str]:
    here = str(Path(__file__).resolve().parent.parent)
    return {
        # Threads that spin at a barrier while another process holds their core make a step several times
        # slower on a busy machine; sleeping ones cost next to nothing on an idle one.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
        # Two pools of two threads on two cores slow each other several times over.
        "OMP_NUM_THREADS": str(execution.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS),
    }


@contextlib.contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, where nobody else handles it and signals reach us (the main thread)."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Ask torchrun to end its workers (they write a checkpoint) and wait; a second Ctrl-C kills it."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()  # the workers follow: they are tied to it
        child.wait()


def _failure(name: str, code: int, scratch: Path, log: Path, log_start: int) -> StemmaError:
    """The error to raise for a failed launch: the worker's own where it explains itself."""
    records = sorted(
        (read_json(path) for path in scratch.glob("failure.*.json")), key=lambda item: item["time"]
    )
    first = records[0] if records else None  # the others failed because this one did
    if first:
        kind = getattr(stemma.core.errors, first["error"], None)
        if isinstance(kind, type) and issubclass(kind, StemmaError):
            return kind(first["message"])
        what = f"rank {first['rank']}: {first['error']}: {first['message']}"
    else:
        signal_hint = " (a signal; -9 may be the out-of-memory killer)" if code < 0 else ""
        what = f"torchrun ended with code {code}{signal_hint}"
    if first:  # the log's end is torchrun's account of the same
        lines = first["traceback"].splitlines()
    else:
        with open(log, "rb") as handle:
            handle.seek(log_start)
            lines = handle.read().decode(errors="replace").splitlines()
    end = "\n".join(f"  | {line}" for line in lines[-LOG_LINES:])
    return StageFailed(f"training {name} failed, {what}\n{end}\nThe whole log: {log}")
