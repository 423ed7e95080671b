"""Nothing outlives the stage that started it: the kernel kills a training process when its parent is gone.

Run as ``python -m pretrain.lifeline PARENT ARGS...``, this ties itself to process PARENT and then becomes
torchrun with ARGS. The workers torchrun starts live in sessions of their own, out of reach of a signal to
our group; they tie themselves to torchrun through ``PARENT_VARIABLE``.
"""

import ctypes
import os
import signal
import sys
from typing import NoReturn

PARENT_VARIABLE = "STEMMA_PARENT_PID"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Have the kernel send this process SIGKILL when its parent ends. Linux only; elsewhere nothing happens.

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


def leave() -> NoReturn:
    """End this process at once, with success: taking torch's modules apart takes half a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    die_with(int(sys.argv[1]))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    from torch.distributed.run import main as torchrun

    torchrun(sys.argv[2:])
    leave()


if __name__ == "__main__":
    main()
