"""Whose process lives, and nothing that outlives who started it: the kernel kills a child with its parent."""

import ctypes
import os
import signal
import sys

import psutil  # type: ignore[import-untyped]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Have the kernel send this process SIGKILL when its parent ends. Linux only; elsewhere nothing happens.

    To the kernel the parent is the *thread* that started this process, so that has to outlive it.

    Args:
        parent: the process id that has to be this one's parent; if it is not (it died already), this
            process ends.
    """
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)  # not sys.exit: a hook after a fork may not raise


def started_at(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: with its number, which is used again, who it is.

    ``create_time()`` alone moves when somebody sets the clock, and whoever lives would be taken for dead.
    """
    seconds: float = process.create_time() - psutil.boot_time()
    return round(seconds, 2)
