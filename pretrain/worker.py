"""Entry point of a training rank: ``python -m pretrain.worker job.json``; torchrun starts several.

The heavy imports wait until the process is tied to its parent, so that nothing is left behind when that is
killed during start-up.
"""

import contextlib
import faulthandler
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pretrain.heartbeat import DONE, TRAINING, Heartbeat
from pretrain.launch import EVENTS, RESULT, Job
from pretrain.lifeline import leave, tie
from pretrain.ranklog import write_to_own_file
from stemma.core.errors import StemmaError
from stemma.core.files import NO_ROOM, read_json, write_json
from stemma.core.progress import EventFile, Progress

ROOM_BYTES = 64 * 1024  # a record with the traceback of torch's deepest error is a tenth of this


class StopFlag:
    """Becomes true when SIGTERM arrives; the loop reads it between steps."""

    def __init__(self) -> None:
        self.set = False
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.set = True

    def __call__(self) -> bool:
        return self.set


def work(job: Job, stop: StopFlag, heartbeat: Heartbeat, rank: int) -> None:
    """Train a stage to its end, and leave the result where the parent looks for it."""
    import torch.distributed as dist

    from pretrain.loop import Stopped
    from pretrain.rewinds import Rewind

    scratch = Path(job.scratch)
    progress = Progress(job.stage, [EventFile(scratch / EVENTS)] if rank == 0 else [])
    result: dict[str, Any] | None = None
    while result is None:
        try:
            result = {"status": "done", "summary": begin(job, stop, heartbeat, progress)}
        except Stopped as stopped:
            result = {"status": "preempted", "step": stopped.step}
        except Rewind as rewind:  # as if killed and started again, without the imports
            progress.say(str(rewind))
        if result is None:
            gc.unfreeze()
            gc.collect()  # the model is gone before the next one is built
    if rank == 0:
        write_json(scratch / RESULT, result)
    dist.destroy_process_group()


def begin(job: Job, stop: StopFlag, heartbeat: Heartbeat, progress: Progress) -> dict[str, Any]:
    """Build engine and objective, and train; returns the stage's summary."""
    from pretrain.engine import Engine
    from pretrain.loop import train

    heartbeat.beat(doing="building the model")
    engine = Engine.build(job.model, job.training, job.execution)
    engine.alive = partial(heartbeat.beat, doing=TRAINING)
    if job.init and job.training.rope_theta is None:
        engine.set_rope_theta(last_rope_theta(Path(job.init).parent))
    module, function = job.entry.split(":")
    objective = getattr(importlib.import_module(module), function)(job, engine)
    gc.freeze()  # what is there now stays: collections during the training need not look through it
    gc.enable()
    heartbeat.beat(doing="loading")
    return train(job, engine, objective, progress, stop, heartbeat.beat)


def last_rope_theta(trained: Path) -> float:
    """The rotary base a stage ended with: its phases may have raised it, and going back would undo them."""
    config = read_json(trained / "hf" / "config.json")
    return float(config["rope_parameters"]["rope_theta"])


class LastWords:
    """Why a rank failed, for the supervisor. Room for it is taken beforehand: the disk may be what fails.

    Args:
        job: names the stage and its scratch folder.
        rank: of this process.

    Raises:
        OSError: there is no room.
    """

    def __init__(self, job: Job, rank: int) -> None:
        folder = Path(job.scratch)
        self.job, self.rank = job, rank
        self.path = folder / f"failure.{rank}.json"
        self.room = folder / f"room.{rank}"
        if not self.room.exists() or self.room.stat().st_size < ROOM_BYTES:
            self.room.write_bytes(os.urandom(ROOM_BYTES))  # noise: no file system stores it as less

    def say(self, error: Exception, step: int | None) -> None:
        """Write the error down, with the step it came after."""
        if isinstance(error, OSError) and error.errno in NO_ROOM:  # to try again at once makes none
            where = error.filename or self.job.path
            error = StemmaError(
                f"no room to write {where} ({error.strerror}). Make room and run the same command again: "
                f"{self.job.stage} goes on from its last checkpoint."
            )
        record: dict[str, Any] = {
            "error": type(error).__name__,
            "kinds": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error) if isinstance(error, StemmaError) else repr(error),
            "traceback": traceback.format_exc(),
            "rank": self.rank,
            "step": step,
            "time": time.time(),
        }
        self.room.unlink(missing_ok=True)
        write_json(self.path, record)


def main() -> None:
    tie()
    stop = StopFlag()
    faulthandler.enable()  # a crash in native code leaves its stack in the log
    gc.disable()  # until all is built: imports make half a million objects that stay
    job = Job.model_validate_json(Path(sys.argv[1]).read_text())
    rank = int(os.environ.get("RANK", "0"))
    if job.execution.ranks > 1:
        write_to_own_file(Path(job.scratch), rank)
    heartbeat = Heartbeat(Path(job.scratch), rank)
    last_words = LastWords(job, rank)
    try:
        work(job, stop, heartbeat, rank)
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk takes no log; what matters has its room
            last_words.say(error, heartbeat.step)
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(1)  # not through exit hooks: they may wait for threads that the error left behind
    heartbeat.beat(doing=DONE)
    leave()


if __name__ == "__main__":
    main()
