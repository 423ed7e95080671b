"""Softmax statistics of the rows of a matrix, and their gradient: what cross entropy is made of."""

from torch import Tensor

from kernels.cross_entropy import reference
from kernels.dispatch import in_triton

__all__ = ["gradient", "statistics"]


def statistics(
    rows: Tensor, ids: Tensor, entropy: bool, keep: bool
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """See ``kernels.cross_entropy.reference``. On CUDA what is kept for the gradient are the logits."""
    if in_triton(rows):
        from kernels.cross_entropy import triton_kernels

        return triton_kernels.statistics(rows, ids, entropy, keep)
    return reference.statistics(rows, ids, entropy, keep)


def gradient(
    kept: tuple[Tensor, ...], ids: Tensor, of_softmax: Tensor, of_label: Tensor | None, keep: bool
) -> Tensor:
    """See ``kernels.cross_entropy.reference``. ``keep``: leave the logits as they are."""
    if len(kept) > 1:  # the logits, their largest values and sums
        from kernels.cross_entropy import triton_kernels

        return triton_kernels.gradient(kept, ids, of_softmax, of_label, overwrite=not keep)
    return reference.gradient(kept, ids, of_softmax, of_label)
