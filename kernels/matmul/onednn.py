"""Matrix products on a CPU, in fp32 by oneDNN instead of MKL.

Torch gives fp32 products to MKL, which keeps to AVX2 on cores that are not Intel's: half of what an AVX-512
core can do, and nearly all of a training step. oneDNN, which torch carries too, asks what the core can do and
not who made it. Torch reaches it for fp32 only through the operator that its compiler emits for linear
layers, so the products are put as that operator wants them. Both libraries compute in true fp32; they differ
in the order of sums.

fp16, for which few CPUs have instructions, is multiplied in fp32 and rounded once: a GPU sums so too, and
torch takes twenty times as long. bf16 and other devices go to torch, which chooses well there.
"""

import torch
from torch import Tensor

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``.

    Args:
        x: ``[..., inner]``.
        weight: ``[columns, inner]``, also a transposed view.

    Returns:
        ``[..., columns]``.
    """
    if _half(x):
        return linear(x.float(), weight.float()).half()
    if not _usable(x, weight):
        return x @ weight.t()
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # for a weight cut from a wider one a kernel is built anew at every call
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return result


def outer_sum(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right``: the gradient of a weight, a sum over many rows.

    Args:
        left: ``[rows, m]``.
        right: ``[rows, n]``.

    Returns:
        ``[m, n]``, not always contiguous: the wider side goes where oneDNN repacks it once, and the result
        may come out transposed.
    """
    if _half(left):
        return outer_sum(left.float(), right.float()).half()
    if not _usable(left, right):
        return left.t() @ right
    if left.shape[1] > right.shape[1]:
        return linear(right.t(), left.t()).t()
    return linear(left.t(), right.t())


def _half(x: Tensor) -> bool:
    return x.is_cpu and x.dtype == torch.float16


def _usable(x: Tensor, y: Tensor) -> bool:
    return AVAILABLE and x.dtype == y.dtype == torch.float32 and x.is_cpu and y.is_cpu and x.numel() > 0
