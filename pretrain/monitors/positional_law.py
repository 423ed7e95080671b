"""Loss by position in the sequence, as a law with three coefficients, and where it is heading.

``L_i = a0 / (1 + a1 * i) + a2`` for position ``i = 1, 2, ...`` at a fixed checkpoint: the reciprocal law of
the temporal scaling law (arXiv 2404.17785). ``a2`` is what remains however much was read before, ``a0`` what
the first positions lose on top of it, ``1 / a1`` how many tokens it takes to halve that.

How the coefficients move with training is part of that paper too, but the form is not known to us.
``extrapolate`` is therefore **ours**: each coefficient follows its own power law of the step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLAT = 1e-3
"""Relative gain in the residual below which a curve has no bend that ``a1`` could be read from."""

LEAST_FITS = 4
"""Fits before a coefficient's course can be extrapolated: one more than its power law has parameters."""


@dataclass(frozen=True)
class PositionalFit:
    """The law's coefficients.

    Attributes:
        a0, a1, a2: as above; nats, 1 / tokens, nats.
        rmse: root of the weighted mean squared residual, nats.
        identifiable: false where the curve has no such bend, as it is flat or does not fall towards a loss
            above 0: no ``a1`` is meaningful then, and ``a2`` is its mean.
    """

    a0: float
    a1: float
    a2: float
    rmse: float
    identifiable: bool

    def loss(self, positions: Floats) -> Floats:
        """The law at positions counted from 1, nats."""
        return self.a0 / (1.0 + self.a1 * positions) + self.a2

    def mean(self, length: int) -> float:
        """Mean of the law over positions ``1 .. length``."""
        return float(self.loss(np.arange(1, length + 1, dtype=np.float64)).mean())


@dataclass(frozen=True)
class Bins:
    """Neighbouring positions that are averaged together: each alone at first, then ever more.

    Attributes:
        edges: ``[bins + 1]``: bin ``b`` holds positions ``edges[b] .. edges[b + 1] - 1``, counted from 0.
    """

    edges: tuple[int, ...]

    @classmethod
    def of(cls, length: int, per_octave: int = 8) -> "Bins":
        """Bins of a sequence: ``per_octave`` for every doubling of the position."""
        edges = [0]
        while edges[-1] < length:
            edges.append(min(length, max(edges[-1] + 1, round(edges[-1] * 2 ** (1 / per_octave)))))
        return cls(tuple(edges))

    def means(self, values: Floats) -> Floats:
        """Mean of a value per position ``[length, ...]`` within each bin."""
        sums = np.add.reduceat(values, self.edges[:-1], axis=0)
        sizes = np.diff(self.edges).reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(sums / sizes)


def fit(means: Floats, weights: Floats, bins: Bins) -> PositionalFit:
    """Fit the law by least squares.

    For a given ``a1`` the law is linear in ``a0`` and ``a2``; the best ``a1`` is searched on a logarithmic
    grid that narrows around the best point. A bin's mean is compared with the law's mean over its positions.

    Args:
        means: ``[bins]`` mean loss, nats; more than three of them.
        weights: ``[bins]``, how many losses each mean is of.
        bins: which positions.

    Raises:
        ValueError: too few bins have a loss.
    """
    seen = weights > 0
    if seen.sum() < 4:
        raise ValueError(f"{int(seen.sum())} positions have a loss; the law has three coefficients")
    positions = np.arange(1, bins.edges[-1] + 1, dtype=np.float64)

    def solve(a1: float) -> tuple[float, float, float]:
        falls = bins.means(1.0 / (1.0 + a1 * positions))[seen]
        a0, a2 = _line(falls, means[seen], weights[seen])
        return _mean_square(means[seen] - a0 * falls - a2, weights[seen]), a0, a2

    low, high = 1e-3 / len(positions), 1e3
    a1 = _search(lambda candidate: solve(candidate)[0], low, high)
    error, a0, a2 = solve(a1)
    average = float(np.average(means[seen], weights=weights[seen]))
    spread = _mean_square(means[seen] - average, weights[seen])
    flat = spread <= (1e-9 * max(1.0, abs(average))) ** 2 or error > (1.0 - FLAT) * spread
    bends = 2 * low < a1 < high / 2 and a0 > 0.0 and a2 >= 0.0  # else a line, or a step, in disguise
    if flat or not bends:
        return PositionalFit(0.0, 0.0, average, spread**0.5, identifiable=False)
    return PositionalFit(a0, a1, a2, error**0.5, identifiable=True)


def extrapolate(steps: Sequence[int], fits: Sequence[PositionalFit], step: int) -> PositionalFit | None:
    """The law at a later step, by a power law ``x(t) = c + k * t^-p`` for each coefficient. **Ours.**

    Args:
        steps: of the fits, ascending, from 1.
        fits: at those steps, of one sequence length.
        step: later than all of them.

    Returns:
        None if fewer than ``LEAST_FITS`` fits are identifiable.
    """
    known = [(at, found) for at, found in zip(steps, fits) if found.identifiable]
    if len(known) < LEAST_FITS:
        return None
    times = np.array([at for at, _ in known], dtype=np.float64)
    a0, a2 = (
        _power_law(times, np.array([getattr(found, name) for _, found in known]))(step)
        for name in ("a0", "a2")
    )
    # a1 is a rate: it stays positive on a logarithmic scale
    a1 = float(np.exp(_power_law(times, np.log([found.a1 for _, found in known]))(step)))
    return PositionalFit(a0, a1, a2, float("nan"), identifiable=True)


def _power_law(times: Floats, values: Floats) -> Callable[[float], float]:
    def solve(p: float) -> tuple[float, float, float]:
        falls = times**-p
        k, c = _line(falls, values, np.ones_like(values))
        return _mean_square(values - k * falls - c, np.ones_like(values)), k, c

    p = _search(lambda candidate: solve(candidate)[0], 0.05, 2.0)
    _, k, c = solve(p)
    return lambda step: float(k * step**-p + c)


def _line(x: Floats, y: Floats, weights: Floats) -> tuple[float, float]:
    """Slope and intercept by weighted least squares, centred first: ``x`` may hardly vary."""
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    square = float(np.sum(weights * (x - mean_x) ** 2))
    slope = float(np.sum(weights * (x - mean_x) * (y - mean_y))) / square if square > 0 else 0.0
    return slope, float(mean_y - slope * mean_x)


def _mean_square(residuals: Floats, weights: Floats) -> float:
    return float(np.average(residuals**2, weights=weights))


def _search(error: Callable[[float], float], low: float, high: float) -> float:
    """The point of least error between two positive bounds: grids in the logarithm, each around the best."""
    left, right = np.log(low), np.log(high)
    for _ in range(14):
        grid = np.linspace(left, right, 41)
        best = int(np.argmin([error(float(np.exp(point))) for point in grid]))
        left, right = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
    return float(np.exp((left + right) / 2))
