"""Delayed scaling: a tensor's scale follows from its largest values in past steps (arXiv 2209.05433, 3.3)."""

import torch
from torch import Tensor


class AmaxHistory:
    """The largest magnitudes that some tensors had in the last steps, and the scales that follow from them.

    The rule is Transformer Engine's: ``scale = largest / max(history) / 2**margin``; the scale stays what it
    was (1 at first) while the history is all zero or holds an infinity. There the history moves once per
    micro batch; here ``roll`` is called once per step, so that the result depends neither on the micro batch
    size nor on activations being computed twice.

    Attributes:
        scale: ``[tensors]`` fp32, for this step.
    """

    def __init__(self, largest: list[float], length: int, margin: int = 0) -> None:
        """Args:
        largest: largest finite value of each tensor's format.
        length: steps that are remembered.
        margin: powers of two to stay below the largest value.
        """
        self._target = torch.tensor(largest) * 2.0**-margin
        self._history = torch.zeros(length, len(largest))
        self.current = torch.zeros(len(largest))
        self.scale = torch.ones(len(largest))

    def to(self, device: torch.device) -> None:
        """Move to where the tensors are."""
        if self.scale.device != device:
            for name in ("_target", "_history", "current", "scale"):
                setattr(self, name, getattr(self, name).to(device))

    def record(self, index: int, x: Tensor) -> None:
        """Take note of a tensor of this step. More than one: the largest counts."""
        self.current[index] = torch.fmax(self.current[index], x.detach().abs().amax().float())

    def roll(self) -> None:
        """End the step: its values enter the history, and the next step's scales follow."""
        self._history = self._history.roll(-1, 0)
        self._history[-1] = self.current
        amax = self._history.amax(0)
        usable = (amax > 0) & amax.isfinite()
        self.scale = torch.where(usable, self._target / torch.where(usable, amax, 1.0), self.scale)
        self.current = torch.zeros_like(self.current)

    def state(self) -> Tensor:
        """``[length + 1, tensors]`` on the CPU: the history, oldest first, and the scales."""
        return torch.cat([self._history, self.scale[None]]).cpu().clone()

    def load(self, state: Tensor) -> None:
        """Take over ``state()``; of a longer history the newest part, of a shorter one all."""
        history, length = state[:-1], len(self._history)
        self._history = torch.zeros_like(self._history)
        kept = history[-length:].to(self._history.device)
        self._history[length - len(kept) :] = kept
        self.scale = state[-1].to(self.scale.device)
