"""Whether a tensor is for Triton's kernels or for torch's."""

import importlib.util
import os
from functools import cache

from torch import Tensor

SWITCH = "STEMMA_TRITON"


def in_triton(x: Tensor) -> bool:
    """Whether a kernel of ours in Triton computes on this tensor: on CUDA, unless ``STEMMA_TRITON=0``.

    The results of both are the same up to the order of sums, so the switch is no part of a profile.
    """
    return x.is_cuda and os.environ.get(SWITCH, "1") != "0" and _installed()


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
