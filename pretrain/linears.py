"""Linear layers on a CPU: what Megatron's parallel layers call for their product and its gradients.

``pretrain.device`` puts ``parallel_linear`` in the place of Megatron's function of the same signature, which
is written for CUDA: its products run through MKL, and only an extension of Apex adds a weight's gradient
straight into Megatron's gradient buffer.
"""

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from kernels.matmul import onednn


class _Linear(Function):
    """``x @ weight.T``, whose weight's gradient goes into ``weight.main_grad`` where there is one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        # Not a saved tensor: it is written to by every layer and micro batch that shares the weight.
        ctx.main_grad = getattr(weight, "main_grad", None)
        return onednn.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        grad = grads[0].contiguous()
        of_x = onednn.linear(grad, weight.t()) if for_x else None
        if not for_weight:
            return of_x, None
        of_weight = onednn.outer_sum(grad.flatten(0, -2), x.flatten(0, -2))
        if ctx.main_grad is None:
            return of_x, of_weight
        ctx.main_grad.add_(of_weight)
        return of_x, None


def parallel_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gradient_accumulation_fusion: bool,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    grad_output_buffer: list[Tensor] | None = None,
    wgrad_deferral_limit: int | None = 0,
    async_grad_allreduce: bool | None = None,
    tp_group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Stands in for ``megatron.core.tensor_parallel.linear_with_grad_accumulation_and_async_allreduce``.

    Args:
        input: ``[seq, batch, in]``; with ``sequence_parallel`` this rank's part of the sequence.
        weight: ``[out, in]``, this rank's part.
        bias: ``[out]`` or None.
        allreduce_dgrad: sum the gradient of the input over ``tp_group``.
        sequence_parallel: gather the input over ``tp_group``, and scatter its gradient.
        tp_group: the tensor-parallel ranks.
        gradient_accumulation_fusion, grad_output_buffer, wgrad_deferral_limit, async_grad_allreduce: of CUDA
            only.

    Returns:
        ``[seq, batch, out]``.
    """
    from megatron.core.tensor_parallel.mappings import (
        copy_to_tensor_model_parallel_region,
        gather_from_sequence_parallel_region,
    )

    if sequence_parallel:
        input = gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
    elif allreduce_dgrad:
        input = copy_to_tensor_model_parallel_region(input, group=tp_group)
    output: Tensor = _Linear.apply(input, weight)
    return output if bias is None else output + bias
