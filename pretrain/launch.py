"""The stage's side of training: hand a job to processes of its own, pass on their progress, take the result.

Torch is never imported here. The processes form a chain, each tied to the one before by
``pretrain.lifeline``: stage -> torchrun -> one worker per rank; a single rank needs no torchrun. A job
travels as ``job.json``, progress comes back through ``events.jsonl``, the summary through ``result.json``:
all in the scratch folder. ``pretrain.supervisor`` watches over them.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import Field

from pretrain.config import ModelConfig, TrainingConfig
from pretrain.lifeline import PARENT_VARIABLE
from pretrain.ranklog import LOG, RankLogs
from pretrain.srun import on_all_nodes
from pretrain.supervisor import GRACE_SECONDS, Supervisor
from stemma.core.config import Config
from stemma.core.errors import Preempted
from stemma.core.files import read_json, write_atomic
from stemma.core.progress import EventTail
from stemma.core.stage import Execution, Workspace

JOB, EVENTS, RESULT = "job.json", "events.jsonl", "result.json"


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
        StageFailed: a rank failed for good (``pretrain.supervisor`` says what is tried again); holds a
            traceback, stacks or the end of the log, and says where the log is.
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
    (scratch / RESULT).unlink(missing_ok=True)
    tail = EventTail(scratch / EVENTS)
    logs = RankLogs(scratch, work.execution.ranks > 1, work.progress.log)

    def forward() -> None:
        for event in tail.poll():
            work.progress.emit(event)
        logs.poll()

    with _termination() as stopping, contextlib.closing(logs):
        supervisor = Supervisor(
            name,
            command(scratch / JOB, work.execution),
            environment(work.execution),
            scratch,
            scratch / LOG,
            hang_seconds=work.execution.hang_seconds,
            restarts=work.execution.restarts,
            stopping=stopping,
            say=work.progress.say,
            idle=forward,
        )
        supervisor.run(finished=(scratch / RESULT).exists)
    result = read_json(scratch / RESULT) if (scratch / RESULT).exists() else None
    if result and result["status"] == "done":
        return {**result["summary"], "restarts": supervisor.restarted}
    reached = f"a checkpoint at step {result['step']}" if result else "what was saved before"
    raise Preempted(
        f"{name} was asked to stop; run the same command again (or Retry) to continue from {reached}"
    )


def command(job: Path, execution: Execution) -> list[str]:
    """The worker, tied to this process; torchrun on it where there are several.

    One rank needs nobody to bring it together with others, and torchrun takes as long to start as it does.
    """
    if execution.launcher == "srun":
        return on_all_nodes(execution, job)
    if execution.ranks == 1:
        return [sys.executable, "-m", "pretrain.worker", str(job)]
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
    return [sys.executable, "-m", "pretrain.lifeline", *torchrun]


def environment(execution: Execution) -> dict[str, str]:
    """What the processes of ``command`` need to find, on top of this process's own environment."""
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
        PARENT_VARIABLE: str(os.getpid()),
    }


@contextlib.contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, where signals reach us (the main thread).

    Who handled it before (Prefect) would raise in the midst of things: an exception has no time for a
    checkpoint.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
