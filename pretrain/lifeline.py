"""Nothing outlives the stage that started it: the kernel kills a training process when its parent is gone.

Run as ``python -m pretrain.lifeline PARENT ARGS...``, this ties itself to process PARENT and then becomes
torchrun with ARGS. The workers torchrun starts live in sessions of their own, out of reach of a signal to
our group; they tie themselves to torchrun through ``PARENT_VARIABLE``.
"""

import os
import sys
from typing import NoReturn

from stemma.core.lifeline import die_with

PARENT_VARIABLE = "STEMMA_PARENT_PID"


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
