"""What torch raises when a checkpoint cannot be written or read, as an error like others."""

import contextlib
from collections.abc import Iterator

from torch.distributed.checkpoint.api import CheckpointException

SHORT_WRITE = "unexpected pos"  # what torch's C++ says of a write that the system cut short


@contextlib.contextmanager
def raised_as_errors() -> Iterator[None]:
    """Raise a ``RuntimeError`` where torch raises its ``CheckpointException``.

    That one is no ``Exception``: handlers that let an interrupt pass let it pass too, and in the thread of a
    writer nobody would hear of it.

    Raises:
        RuntimeError: says what each rank met.
    """
    try:
        yield
    except CheckpointException as error:
        met = "; ".join(f"rank {rank}: {wrapped[0]!r}" for rank, wrapped in error.failures.items())
        hint = "; no space left on the disk, or a file larger than allowed" if SHORT_WRITE in met else ""
        raise RuntimeError(met + hint) from error
