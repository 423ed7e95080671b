"""Training stages in the test's own process: the same worker without its start-up, which takes longer."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import ModelConfig, TrainingConfig
from pretrain.launch import JOB, Job
from stemma.core.artifact import Artifact, Store
from stemma.core.files import write_atomic
from stemma.core.progress import STEP, Event, Listener
from stemma.core.stage import Execution, Stage, Workspace, execute


class Killed(Exception):
    """Stands for the end of the process."""


def launch_here(
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
    """As ``pretrain.launch.launch``."""
    import torch.distributed as dist

    from pretrain.heartbeat import Heartbeat
    from pretrain.worker import begin

    # isort: split
    from megatron.core import parallel_state

    job = Job(
        stage=name,
        entry=entry,
        arguments=arguments,
        model=model,
        training=training,
        execution=work.execution,
        path=str(work.path),
        scratch=str(work.scratch),
        init=str(init / "checkpoint") if init else None,
        tokenizer=str(tokenizer),
        validation=[str(folder) for folder in validation],
    )
    write_atomic(work.scratch / JOB, job.model_dump_json(indent=1) + "\n")
    try:
        return begin(job, lambda: False, Heartbeat(work.scratch, 0), work.progress)  # type: ignore[arg-type]
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
        gc.unfreeze()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages train in this process."""
    for room in ("pretrain.stage", "posttrain.sft", "posttrain.rl"):
        monkeypatch.setattr(f"{room}.launch", launch_here)


def train(store: Store, stage: Stage, *listeners: Listener, die_after: int = 0) -> Artifact:
    """Make a training stage's artifact.

    Args:
        store: where.
        stage: what.
        listeners: receive its progress.
        die_after: end as a killed process would, after so many steps; what it is then continued from is on
            the disk.

    Raises:
        Killed: it did.
    """

    def die(event: Event) -> None:
        if die_after and event.kind == STEP and event.step == die_after:
            raise Killed

    return execute(stage, store, Execution(threads=1), [*listeners, die])
