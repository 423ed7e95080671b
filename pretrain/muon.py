"""Muon for the matrices of the layers, in one optimizer with AdamW for the rest.

One, because Megatron's wrappers then treat both alike: master weights, loss scaling, clipping, checkpoints.
The mathematics is ``torch.optim.Muon``'s. What is added here is what a matrix *is*: a whole linear layer of
the model, where Megatron keeps a rank's part of it, and SwiGLU's gate and up projection as one parameter.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.sharding import join_shards, shard_dimension, tensor_shard


class Muon(torch.optim.Optimizer):
    """Takes the group marked ``muon`` over from an AdamW, and lets it do the others.

    Per matrix (Jordan et al. 2024; https://kellerjordan.github.io/posts/muon): a momentum, Nesterov's look
    ahead along it, all singular values brought near 1 by Newton-Schulz iterations in bf16, and a step of
    ``0.2 sqrt(max(rows, columns))`` times the rate (Liu et al. 2025, arXiv 2502.16982, equation 4), which is
    as large as AdamW's and so takes its rate and decay.

    Args:
        adamw: torch's AdamW or one like it, over all parameters.
        names: of the matrices in the model, in the order of their group.
        momentum: decay of the momentum.
        group: tensor-parallel ranks; None: there is one.
    """

    def __init__(
        self,
        adamw: torch.optim.Optimizer,
        names: list[str],
        momentum: float,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.adamw, self.names, self.momentum, self.group = adamw, names, momentum, group
        super().__init__(adamw.param_groups, adamw.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that lie in ``parameter.grad``; a closure is not evaluated."""
        rest = []
        for group in self.param_groups:
            if not group.get("muon"):
                rest.append(group)
                continue
            for name, parameter in zip(self.names, group["params"], strict=True):
                self._update(name, parameter, group["lr"], group["weight_decay"])
        self.adamw.param_groups, self.adamw.state = rest, self.state
        self.adamw.step()

    def _update(self, name: str, parameter: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(empty_state(parameter, "momentum_buffer"), step=torch.zeros(()))
        state["step"] += 1  # Megatron keeps one for all parameters
        gradient = parameter.grad
        assert gradient is not None
        momentum = state["momentum_buffer"].lerp_(gradient, 1.0 - self.momentum)
        ahead = gradient.lerp(momentum, self.momentum)
        parameter.mul_(1.0 - lr * weight_decay).add_(self._direction(name, ahead), alpha=lr)

    def _direction(self, name: str, ahead: Tensor) -> Tensor:
        """This rank's part of the step of rate 1."""
        size = 1 if self.group is None else self.group.size()
        split = size > 1 and shard_dimension(name) is not None
        whole = ahead
        if split:
            shards = [torch.empty_like(ahead) for _ in range(size)]
            dist.all_gather(shards, ahead.contiguous(), group=self.group)
            whole = join_shards(name, shards)
        layers = whole.chunk(2) if name.endswith("linear_fc1.weight") else (whole,)
        direction = torch.cat([_orthogonal(layer) for layer in layers])
        return tensor_shard(name, direction, self.group.rank(), size) if split and self.group else direction


def _orthogonal(update: Tensor) -> Tensor:
    """``torch.optim.Muon``'s step of rate 1 along a matrix, without decay and momentum."""
    step = torch.zeros_like(update)
    step.grad = update
    torch.optim.Muon([step], lr=1.0, weight_decay=0.0, momentum=0.0, adjust_lr_fn="match_rms_adamw").step()
    return step


def empty_state(parameter: Tensor, *names: str) -> dict[str, Any]:
    """Moments of zero."""
    return {name: torch.zeros_like(parameter) for name in names}


def init_state(optimizer: torch.optim.Optimizer, config: object = None) -> None:
    """Give every parameter the state that a checkpoint is loaded into: Megatron's ``init_state_fn``."""
    for group in optimizer.param_groups:
        names = ("momentum_buffer",) if group.get("muon") else ("exp_avg", "exp_avg_sq")
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter].update(empty_state(parameter, *names))
