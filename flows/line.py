"""Being asked to stop, inside the process of a flow: once, by whoever it may be, and with time to save.

The guard (``flows.guard``) holds the other end of a pipe. A word on it, or its closing (the kernel closes it
when the guard is killed), becomes one SIGTERM for the main thread; Prefect turns that into an exception, and
what trains writes a checkpoint. Whatever comes later changes nothing: a second SIGTERM would end the writing.
"""

import os
import signal
import threading
from enum import StrEnum

from pretrain.supervisor import GRACE_SECONDS

MARGIN_SECONDS = 60.0  # from the checkpoint to the end of the process


class Reason(StrEnum):
    """Why a flow's process stops."""

    STOP = "stop"
    """The guard was sent SIGTERM: somebody cancelled the run, or the UI ends."""
    CANCEL = "cancel"
    """The server says that the run is to be cancelled, and nobody brought the message."""
    SUSPEND = "suspend"
    """The run is suspended until somebody resumes it."""
    TAKEN = "taken"
    """Another process has the run: somebody retried or resumed it while this one was still there."""
    WORKER = "worker"
    """The worker is gone."""
    GUARD = "guard"
    """The guard is gone."""


_lock = threading.Lock()
_asked: list[Reason] = []
_held = False


def hold(descriptor: int) -> None:
    """Take the end of the pipe that the guard gave; call it in the main thread."""
    global _held
    _held = True
    threading.Thread(target=_listen, args=(descriptor,), name="line", daemon=True).start()


def is_held() -> bool:
    """Whether a guard watches over this process."""
    return _held


def asked() -> Reason | None:
    """Why this process was asked to stop, if it was."""
    return _asked[0] if _asked else None


def ask(reason: Reason) -> None:
    """Ask this process to stop, unless it was asked before."""
    with _lock:
        if _asked:
            return
        _asked.append(reason)
    # To the main thread, not the process: elsewhere it would not wake what sleeps there.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    insist = threading.Timer(GRACE_SECONDS + MARGIN_SECONDS, _end)
    insist.daemon = True
    insist.start()


def _listen(descriptor: int) -> None:
    word = os.read(descriptor, 16).decode()
    ask(Reason(word) if word else Reason.GUARD)


def _end() -> None:
    """The guard made this process the leader of a group: nothing of it stays. Ranks are tied to it."""
    os.killpg(0, signal.SIGKILL)
