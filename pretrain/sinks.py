"""Where figures of a run are shown while it trains: TensorBoard, Weights & Biases, trackio.

``metrics.jsonl`` is the record; these are copies of it for looking at. What is asked for and is not
installed, or whose own ``init`` fails (no login, say), ends an attempt before its first step.
"""

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pretrain.config.metrics import MetricsConfig
from pretrain.launch import Job
from stemma.core.errors import StemmaError
from stemma.core.files import read_jsonl

FOLDER = "tensorboard"


class Sink(Protocol):
    """Shows figures."""

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Show the figures of a step, counted from 0; those that are None are not finite."""
        ...

    def close(self) -> None:
        """No more steps follow in this process."""
        ...


def open_sinks(job: Job, step: int) -> list[Sink]:
    """What the profile asks for. Rank 0 alone calls it.

    Args:
        job: names the stage, its folder and the projects to log to.
        step: steps done: what was shown of later ones is superseded.

    Raises:
        StemmaError: a package that is asked for is not installed.
    """
    config, path = job.training.metrics, Path(job.path)
    for package in ("wandb", "trackio"):
        if getattr(config, package) and importlib.util.find_spec(package) is None:
            raise StemmaError(
                f"{job.stage}: training.metrics.{package} names a project, but the package {package} is not "
                "installed. Install it, or leave the field empty"
            )
    sinks: list[Sink] = []
    if config.tensorboard and importlib.util.find_spec("tensorboard") is not None:
        sinks.append(TensorBoard(path / FOLDER, step, path / "metrics.jsonl"))
    if config.wandb:
        sinks.append(WandB(job, config))
    if config.trackio:
        sinks.append(Trackio(job, config))
    return sinks


class TensorBoard:
    """Event files, written without TensorFlow and without a thread: the process forks when it saves.

    Each attempt writes a file named by the step it begins with. Those of attempts that had come further are
    deleted, and TensorBoard is told to forget what older ones say of later steps.

    Args:
        folder: of event files.
        step: steps done.
        metrics: ``metrics.jsonl``, copied where there are no event files of earlier steps.
    """

    def __init__(self, folder: Path, step: int, metrics: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.summary = Event, Summary
        folder.mkdir(exist_ok=True)
        earlier = []
        for path in folder.glob("events.out.tfevents.*"):
            if int(path.suffixes[-1][1:]) < step:
                earlier.append(path)
            else:
                path.unlink()
        begins = step if earlier else 0
        self.records = RecordWriter(open(folder / f"events.out.tfevents.{begins:010d}", "wb"))  # noqa: SIM115
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        started = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=time.time(), step=begins, session_log=started))
        if not earlier and step:
            for line in read_jsonl(metrics):
                self.write(line["step"], line)

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Each figure is a scalar of its own name."""
        values = [
            self.summary.Value(tag=name, simple_value=value)
            for name, value in figures.items()
            if value is not None and name != "step"
        ]
        self._append(self.event(wall_time=time.time(), step=step, summary=self.summary(value=values)))
        self.records.flush()

    def close(self) -> None:
        self.records.close()

    def _append(self, event: Any) -> None:
        self.records.write(event.SerializeToString())


class WandB:
    """A run of Weights & Biases, continued under the same id when the stage is."""

    def __init__(self, job: Job, config: MetricsConfig) -> None:
        import wandb

        name = Path(job.path).name
        self.run = wandb.init(
            project=config.wandb,
            id=name,
            name=name,
            resume="allow",
            config={"model": job.model.model_dump(), "training": job.training.model_dump()},
        )
        self.run.define_metric("*", step_metric="step")  # a step that is trained again is shown again

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        self.run.log({name: value for name, value in figures.items() if value is not None})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio, continued under the same name when the stage is."""

    def __init__(self, job: Job, config: MetricsConfig) -> None:
        import trackio

        self.trackio = trackio
        trackio.init(
            project=config.trackio,
            name=Path(job.path).name,
            resume="allow",
            config={"model": job.model.model_dump(), "training": job.training.model_dump()},
        )

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        shown = {name: value for name, value in figures.items() if value is not None and name != "step"}
        self.trackio.log(shown, step=step)

    def close(self) -> None:
        self.trackio.finish()
