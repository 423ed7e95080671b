"""The training loss by position in the sequence, averaged over windows of steps.

Nothing is computed for it: the losses are those of the training batches, which a model reads for the first
time where sources are not repeated. They are added up in fixed point, so that the order of adding does not
matter: an interrupted run and one on other ranks come to the same sums as long as the losses are the same.
"""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.batch import MicroBatch
from pretrain.engine import Engine
from pretrain.monitors.positional_law import Bins, PositionalFit, extrapolate, fit

SCALE = 1 << 20
"""Units per nat. A window of 10^11 tokens of 20 nats stays within 63 bits."""

BROKEN = 1e3
"""Nats from which a loss says nothing of text any more; like NaN, it would spoil its whole window."""

SHOWN = 24
"""Points of the curve kept in the record, for charts."""


class PositionLosses:
    """Collects losses by position and fits the law to them at the end of a window. Every rank holds one.

    Args:
        engine: whose ranks share the positions.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.length = 0
        self.history: list[list[float]] = []
        self._clear(0)

    def observe(self, losses: Tensor, micro: MicroBatch) -> None:
        """Add a micro batch's losses ``[batch, seq]``, each at the position the micro batch says."""
        counted = (micro.loss_mask > 0) & (losses < BROKEN)  # NaN is not below
        weights = counted.long().flatten()
        fixed = (losses.where(counted, 0.0).double() * SCALE).round().long().flatten()
        bins = torch.bucketize(micro.position_ids.flatten(), self.bounds, right=True)
        self.sums.index_add_(0, bins, fixed)
        self.counts.index_add_(0, bins, weights)

    def begin(self, length: int) -> None:
        """The steps that follow read sequences of this length."""
        if length != self.length:
            self._clear(length)

    def end(self, step: int) -> dict[str, Any] | None:
        """Close a window after ``step`` steps; None: no losses.

        Returns:
            The record: the coefficients, what former windows of this length predicted for this one and what
            it is (``predicted`` by our extrapolation, ``mean``: both means over positions, nats), and the
            curve as points ``[position, nats]``.
        """
        sums, counts = self._totals()
        self._clear(self.length)
        weights = counts.astype(np.float64)
        if np.count_nonzero(weights) < 4:
            return None
        means = np.divide(sums, weights * SCALE, out=np.zeros_like(weights), where=weights > 0)
        bins = Bins.of(self.length)
        found = fit(means, weights, bins)
        past = [entry for entry in self.history if entry[1] == self.length]
        ahead = extrapolate([int(at) for at, *_ in past], [_fit(entry) for entry in past], step)
        self.history.append([step, self.length, found.a0, found.a1, found.a2, float(found.identifiable)])
        return {
            "monitor": "positions",
            "step": step,
            "sequence_length": self.length,
            "tokens": int(counts.sum()),
            "a0": round(found.a0, 6),
            "a1": float(f"{found.a1:.6g}"),
            "a2": round(found.a2, 6),
            "rmse": round(found.rmse, 6),
            "identifiable": found.identifiable,
            "mean": round(found.mean(self.length), 6),
            "predicted": round(ahead.mean(self.length), 6) if ahead else None,
            "curve": _curve(means, weights, bins),
        }

    def state_dict(self) -> dict[str, Any]:
        """Sums since the last window, over all ranks, and the fits so far. Every rank has to call it."""
        sums, counts = self._totals()
        return {
            "length": self.length,
            "sums": sums.tolist(),
            "counts": counts.tolist(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a window; rank 0 keeps what all ranks had, so that it is counted once."""
        self._clear(state["length"])
        self.history = [list(entry) for entry in state["history"]]
        if self.engine.rank == 0:
            self.sums += torch.tensor(state["sums"], device=self.sums.device)
            self.counts += torch.tensor(state["counts"], device=self.counts.device)

    def _clear(self, length: int) -> None:
        self.length = length
        edges = torch.tensor(Bins.of(length).edges[1:-1] if length else [], dtype=torch.long)
        self.bounds = edges.to(self.engine.device)
        self.sums = torch.zeros(len(edges) + 1, dtype=torch.long, device=self.engine.device)
        self.counts = torch.zeros_like(self.sums)

    def _totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums and counts of all ranks; those that share a layer saw the same losses, one of them counts."""
        both = torch.stack([self.sums, self.counts])
        if self.engine.world_size > 1:
            dist.all_reduce(both)
        sums, counts = both.cpu().numpy()
        return sums, counts


def _curve(means: np.ndarray, weights: np.ndarray, bins: Bins) -> list[list[float]]:
    """A few points of the measured curve, at the middle of their bins, first position to last."""
    seen = np.flatnonzero(weights)
    shown = seen[np.unique(np.linspace(0, len(seen) - 1, SHOWN).round().astype(int))]
    edges = np.array(bins.edges)
    return [[round(float(edges[at] + 1 + edges[at + 1]) / 2, 1), round(float(means[at]), 4)] for at in shown]


def _fit(entry: list[float]) -> PositionalFit:
    _, _, a0, a1, a2, identifiable = entry
    return PositionalFit(a0, a1, a2, 0.0, bool(identifiable))
