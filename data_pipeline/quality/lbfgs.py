"""L-BFGS for smooth convex functions (Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 3.1).

torch has one, but its first use imports torch's whole compiler, which takes longer than training does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 10  # pairs of steps and changes of the gradient that are kept
SUFFICIENT = 1e-4  # share of the decrease the slope promises that a step must give
SHORTEST = 1e-10  # step length at which the search ends: rounding, not the function, decides there


def minimise(
    function: Callable[["Tensor"], tuple[float, "Tensor"]],
    start: "Tensor",
    max_iterations: int,
    tolerance: float = 1e-6,
) -> "Tensor":
    """Minimise a convex function.

    Args:
        function: value and gradient at a point.
        start: where to begin, ``[n]`` float64.
        max_iterations: steps taken at most.
        tolerance: the search ends where no entry of the gradient is larger.

    Returns:
        the best point found, ``[n]``.
    """
    point = start
    value, gradient = function(point)
    memory: list[tuple[Tensor, Tensor, float]] = []
    for _ in range(max_iterations):
        if float(gradient.abs().max()) <= tolerance:
            break
        direction = -_two_loops(gradient, memory)
        slope = float(direction @ gradient)
        length = 1.0 if memory else min(1.0, 1.0 / float(gradient.abs().sum()))
        while True:
            there = point + length * direction
            new_value, new_gradient = function(there)
            if new_value <= value + SUFFICIENT * length * slope:
                break
            length /= 2
            if length < SHORTEST:
                return point
        step, change = there - point, new_gradient - gradient
        curvature = float(step @ change)
        if curvature > 1e-12 * float(change @ change):  # positive where the function is strictly convex
            memory = [*memory[-MEMORY + 1 :], (step, change, curvature)]
        point, value, gradient = there, new_value, new_gradient
    return point


def _two_loops(gradient: "Tensor", memory: list[tuple["Tensor", "Tensor", float]]) -> "Tensor":
    """The gradient times the inverse Hessian that the remembered steps suggest."""
    direction = gradient.clone()
    weights = []
    for step, change, curvature in reversed(memory):
        weights.append(float(step @ direction) / curvature)
        direction -= weights[-1] * change
    if memory:
        _, change, curvature = memory[-1]
        direction *= curvature / float(change @ change)
    for (step, change, curvature), weight in zip(memory, reversed(weights)):
        direction += (weight - float(change @ direction) / curvature) * step
    return direction
