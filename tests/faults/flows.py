"""What goes wrong around a run that is a Prefect flow: its server, its database, its process."""

import sqlite3
import threading

from tests.faults.scene import Fault, Scene
from tests.faults.training import KILLED, STEP, kill, kill_run, saved, terminate_run

LOCKED_SECONDS = 8.0


def kill_server(scene: Scene) -> None:
    server = next(one for one in scene.run.children() if any("flows.child" in part for part in one.cmdline()))
    server.kill()


def lock_database(scene: Scene) -> None:
    """Somebody copies it, or looks at it with a tool that locks."""
    path = scene.root / "prefect" / "prefect.db"
    held = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")

    def let_go() -> None:
        held.execute("ROLLBACK")
        held.close()

    threading.Timer(LOCKED_SECONDS, let_go).start()


FAULTS = [
    Fault(
        name="server_killed",
        what="SIGKILL of the Prefect server",
        where="in a step of `stemma demo`",
        node="commonsense",
        code=0,
        point=STEP,
        do=saved(kill_server),
        holds="the training goes on without it",
        flow=True,
    ),
    Fault(
        name="database_locked",
        what=f"Prefect's database is locked for {LOCKED_SECONDS:.0f} s",
        where="in a step of `stemma demo`",
        node="commonsense",
        code=0,
        point=STEP,
        do=saved(lock_database),
        flow=True,
    ),
    Fault(
        name="flow_killed",
        what="SIGKILL of the flow's process",
        where="in a step of `stemma demo`",
        node="commonsense",
        code=KILLED,
        point=STEP,
        do=saved(kill_run),
        then_says="continuing commonsense from step 4",
        holds="server and training end with it",
        flow=True,
    ),
    Fault(
        name="flow_asked_to_stop",
        what="SIGTERM to the flow's process",
        where="in a step of `stemma demo`",
        node="commonsense",
        code=75,
        point=STEP,
        do=terminate_run,
        says=r"continue from a checkpoint at step \d+",
        flow=True,
    ),
    Fault(
        name="rank_killed_under_a_flow",
        what="SIGKILL of the training process",
        where="in a step of `stemma demo`",
        node="commonsense",
        code=0,
        point=STEP,
        do=saved(kill),
        says="goes on from the checkpoint of step 4",
        flow=True,
    ),
]
