"""Nothing outlives the process that started it: the kernel kills a child when its parent is gone."""

import ctypes
import os
import signal
import sys

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
