"""Nothing outlives the stage that started it: the kernel kills a training process when its parent is gone.

A process finds the one it is tied to in ``PARENT_VARIABLE``. Run as ``python -m pretrain.lifeline ARGS...``,
this ties itself to the stage and then becomes torchrun with ARGS; the workers it starts live in sessions of
their own, out of reach of a signal to our group, and tie themselves to torchrun.
"""

import gc
import os
import sys
from typing import NoReturn

from stemma.core.lifeline import die_with

PARENT_VARIABLE = "STEMMA_PARENT_PID"


def tie() -> None:
    """Tie this process to the one that started it for training; without one, do nothing."""
    if PARENT_VARIABLE in os.environ:
        die_with(int(os.environ[PARENT_VARIABLE]))


def leave() -> NoReturn:
    """End this process at once, with success: taking torch's modules apart takes half a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    tie()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    gc.disable()  # a fifth of the time of imports is looking through what they made for garbage
    from torch.distributed.run import main as torchrun

    gc.enable()
    torchrun(sys.argv[1:])
    leave()


if __name__ == "__main__":
    main()
