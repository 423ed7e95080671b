"""Linear layers that compute as if in FP8, on any device: Megatron's, with quantised operands.

Each of a layer's three products (output, input gradient, weight gradient) has both operands scaled, rounded
to 8 bits and scaled back, as the recipe says, and is then summed in fp32: what a tensor core does but for the
order of the sum. Embedding, output layer, norms and the attention itself stay in bf16, as in Transformer
Engine. With ``tensorwise`` each tensor-parallel rank scales its own part of a tensor; ``delayed`` shares the
largest values over all ranks that Megatron would (those of one pipeline stage).

Every recipe but ``delayed`` scales some operand over the tokens of a micro batch, so the micro batch size is
part of the numerics. It is on a GPU, too.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kernels.fp8 import quantise
from kernels.fp8.delayed import AmaxHistory
from kernels.fp8.reference import E4M3, E5M2, LARGEST
from kernels.matmul.onednn import linear, outer_sum
from pretrain import device  # noqa: F401  (prepares Megatron, which is imported after it, for a CPU)
from pretrain.config import FP8Config

# isort: split
from megatron.core import parallel_state
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer import ModuleSpec

INPUT, WEIGHT, GRADIENT = range(3)


class Operands:
    """How one linear layer's operands are quantised, and what delayed scaling remembers of them."""

    def __init__(self, fp8: FP8Config) -> None:
        self.recipe = fp8.recipe
        self.formats = [E4M3, E4M3, E5M2 if fp8.chosen_format == "hybrid" else E4M3]
        self.history = (
            AmaxHistory([LARGEST[format] for format in self.formats], fp8.amax_history_len, fp8.margin)
            if fp8.recipe == "delayed"
            else None
        )

    def __call__(self, role: int, x: Tensor, along: int) -> Tensor:
        """One operand ``[rows, columns]`` of a product that sums over dimension ``along``; fp32."""
        scale = None
        if self.history is not None:
            self.history.to(x.device)
            scale = self.history.scale[role]
        return quantise(x, self.recipe, self.formats[role], along, square=role == WEIGHT, scale=scale)

    def record(self, role: int, x: Tensor) -> None:
        """Take note of an operand of a training step."""
        if self.history is not None:
            self.history.to(x.device)
            self.history.record(role, x)


class _Product(torch.autograd.Function):
    """``input @ weight.T`` and its gradients, each from quantised operands."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, operands: Operands) -> Tensor:
        """``x``: [..., in], ``weight``: [out, in] -> [..., out], of the type of ``x``."""
        ctx.save_for_backward(x, weight)
        ctx.operands = operands
        rows = x.flatten(0, -2)
        out = linear(operands(INPUT, rows, 1), operands(WEIGHT, weight, 1))
        return out.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        operands, gradient = ctx.operands, grads[0].flatten(0, -2)
        operands.record(GRADIENT, gradient)
        to_input = linear(operands(GRADIENT, gradient, 1), operands(WEIGHT, weight, 0).t())
        to_weight = outer_sum(operands(GRADIENT, gradient, 0), operands(INPUT, x.flatten(0, -2), 0))
        return to_input.to(x.dtype).view(x.shape), to_weight.to(weight.dtype), None


class SimulatedLinear:
    """What both layers share: the product, and the history that travels with a checkpoint.

    The history is Megatron's ``_extra_state``, as Transformer Engine's is: a stage that starts from weights
    trained without it begins with an empty one.
    """

    def __init__(self, *args: Any, fp8: FP8Config, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.operands = Operands(fp8)

    def _forward_impl(
        self,
        input: Tensor,
        weight: Tensor,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: dist.ProcessGroup | None,
        **_: object,  # bias, fused accumulation, deferred gradients: this model has none
    ) -> Tensor:
        if sequence_parallel:
            input = gather_from_sequence_parallel_region(input, group=tp_group)
        elif allreduce_dgrad:
            input = copy_to_tensor_model_parallel_region(input, group=tp_group)
        if torch.is_grad_enabled():
            self.operands.record(INPUT, input)
            self.operands.record(WEIGHT, weight)
        return _Product.apply(input, weight, self.operands)

    def get_extra_state(self) -> Tensor | None:
        history = self.operands.history
        return None if history is None else history.state()

    def set_extra_state(self, state: Tensor | None) -> None:
        if self.operands.history is not None and state is not None:
            self.operands.history.load(state)


class SimulatedColumnParallelLinear(SimulatedLinear, ColumnParallelLinear):
    """Megatron's linear layer whose outputs are split over tensor-parallel ranks, with quantised operands."""


class SimulatedRowParallelLinear(SimulatedLinear, RowParallelLinear):
    """Megatron's linear layer whose inputs are split over tensor-parallel ranks, with quantised operands."""


def simulate(spec: ModuleSpec, fp8: FP8Config) -> ModuleSpec:
    """Put quantising linear layers into a layer spec, in place."""
    column = ModuleSpec(module=SimulatedColumnParallelLinear, params={"fp8": fp8})
    row = ModuleSpec(module=SimulatedRowParallelLinear, params={"fp8": fp8})
    attention, mlp = spec.submodules.self_attention.submodules, spec.submodules.mlp.submodules
    for name in ("q_proj", "q_down_proj", "q_up_proj", "kv_down_proj", "kv_up_proj"):
        setattr(attention, f"linear_{name}", column)
    mlp.linear_fc1 = column
    attention.linear_proj = mlp.linear_fc2 = row
    return spec


def end_step(modules: list[nn.Module]) -> None:
    """Find the next step's scales of delayed scaling, after a step's backward passes. Every rank calls it."""
    histories = [
        layer.operands.history
        for module in modules
        for layer in module.modules()
        if isinstance(layer, SimulatedLinear) and layer.operands.history is not None
    ]
    if not histories:
        return
    seen = torch.stack([history.current for history in histories])
    dist.all_reduce(seen, dist.ReduceOp.MAX, parallel_state.get_amax_reduction_group(True))
    for history, current in zip(histories, seen):
        history.current = current
        history.roll()
