"""Training processes without their start-up: everything is imported once, and each attempt is a fork of that.

A fork runs ``pretrain.worker`` as a process started by torchrun would, on a job of its own, and can be told
where to die. ``Zygote`` is the test's side; run as a program, this is the other one, which has no threads.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DIED = -signal.SIGKILL


@dataclass(frozen=True)
class Death:
    """Where a process is to be killed: by SIGKILL, which nothing can answer.

    Attributes:
        step: not before this many steps are done.
        beats: so many signs of life after that: 0 is the end of the step, 1 its first micro batch...
        event: or at this file operation below the artifact's folder, counted from 0 after ``step``; before
            it has its effect.
    """

    step: int
    beats: int = 0
    event: int | None = None


class Zygote:
    """Starts attempts. Use it as a context."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self.program = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.program.stdin is not None
        self.program.stdin.close()
        self.program.wait(60)

    def run(
        self, job: Path, ranks: int = 1, death: Death | None = None, events: Path | None = None
    ) -> list[int]:
        """Train until the end, or until the last rank dies; returns the exit code of each rank.

        Args:
            job: ``job.json``.
            ranks: processes; their number has to be the job's.
            death: of the last rank.
            events: a file to list the last rank's file operations in.
        """
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        request = {"job": str(job), "ranks": ranks, "death": asdict(death) if death else None}
        self.program.stdin.write(json.dumps(request | {"events": str(events) if events else None}) + "\n")
        self.program.stdin.flush()
        codes: list[int] = json.loads(self.program.stdout.readline())
        return codes


def serve() -> None:
    """Fork what is asked for on standard input until it ends."""
    import gc

    import pretrain.loop
    import pretrain.objective
    import pretrain.worker  # noqa: F401

    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    # pyarrow's allocator has one, and knows of forks
    assert threads - {"jemalloc_bg_thd"} == {Path("/proc/self/comm").read_text().strip()}, threads
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            request["port"] = free.getsockname()[1]
        ranks = [fork(rank, request) for rank in range(request["ranks"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
        answers.write(json.dumps(codes) + "\n")
        answers.flush()


def fork(rank: int, request: dict[str, Any]) -> int:
    """One rank; returns its process id."""
    parent = os.getpid()
    if (child := os.fork()) != 0:
        return child
    try:
        become_rank(rank, parent, request)
    finally:
        os._exit(70)  # the worker ends its process itself


def become_rank(rank: int, parent: int, request: dict[str, Any]) -> None:
    from pretrain import worker
    from pretrain.lifeline import PARENT_VARIABLE

    job = Path(request["job"])
    log = os.open(job.with_name(f"rank-{rank}.log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.environ[PARENT_VARIABLE] = str(parent)
    if request["ranks"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(request["ranks"]))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(request["port"]))
        os.environ["TORCHELASTIC_RUN_ID"] = "zygote"
    last = rank == request["ranks"] - 1
    if last and (request["death"] or request["events"]):
        death = Death(**request["death"]) if request["death"] else None
        worker.Heartbeat = watched(job.parent.parent, death, request["events"])
    sys.argv = ["worker", str(job)]
    worker.main()


def watched(artifact: Path, death: Death | None, listing: str | None) -> type:
    """A ``Heartbeat`` that ends its process where it is to die, and lists what that does with files."""
    from pretrain.heartbeat import Heartbeat

    counted = {"step": 0, "beats": -1, "events": -1}
    listed = os.open(listing, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644) if listing else None
    own = tuple(str(artifact / ".scratch" / name) for name in ("heartbeat.", "stacks.", "events.", "rank-"))

    def end(wanted: int | None, reached: int) -> None:
        if wanted is not None and reached >= wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    class Watched(Heartbeat):
        def beat(self, step: int | None = None, doing: str | None = None) -> None:
            super().beat(step, doing)
            counted["step"] = step or counted["step"]
            if death and death.event is None and counted["step"] >= death.step:
                counted["beats"] += 1
                end(death.beats, counted["beats"])

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" and not event.startswith(("os.", "shutil.")):
            return
        path = os.fsdecode(arguments[0]) if arguments and isinstance(arguments[0], str | bytes | Path) else ""
        if not path.startswith(str(artifact)) or path.startswith(own):
            return
        if listed is not None:
            os.write(listed, f"{counted['step']} {event} {path.removeprefix(str(artifact))}\n".encode())
        if death and death.event is not None and counted["step"] >= death.step:
            counted["events"] += 1
            end(death.event, counted["events"])

    sys.addaudithook(see)
    return Watched


if __name__ == "__main__":
    serve()
