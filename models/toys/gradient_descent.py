"""Gradient descent on the talk's example (slides "Loss Function - Beispiel" and "Gradient Descent")."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
"""(w0, b0)"""

FAR = 1e6  # parameters beyond this have diverged


@dataclass(frozen=True)
class Descent:
    """Where gradient descent went."""

    path: list[Point]
    """from the start on; a point a step"""
    outcome: Literal["converged", "not there yet", "diverged"]


def loss(parameters: Point, x: float, y: float) -> float:
    """`J(w0, b0) = (y - (x·w0 + b0))²`"""
    w0, b0 = parameters
    return (y - (x * w0 + b0)) ** 2


def gradient(parameters: Point, x: float, y: float) -> Point:
    """`∇J = (∂J/∂w0, ∂J/∂b0)`"""
    w0, b0 = parameters
    towards_prediction = -2 * (y - (x * w0 + b0))
    return towards_prediction * x, towards_prediction


def descend(
    gradient_at: Callable[[Point], Point],
    start: Point,
    learning_rate: float,
    *,
    max_steps: int,
    tolerance: float,
) -> Descent:
    """`θ <- θ - α·∇J` until the gradient is no longer than `tolerance`, or a parameter is far out.

    After `max_steps` it is not there yet, or has diverged where the gradient is longer than at the start.

    `ValueError` where the learning rate is not positive, or the start not finite.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"the learning rate should be greater than 0, not {learning_rate}")
    if not all(map(math.isfinite, start)):
        raise ValueError(f"the descent should start at finite numbers, not {start}")
    path = [start]
    steepness = [math.hypot(*gradient_at(start))]
    while steepness[-1] > tolerance and len(path) <= max_steps:
        w0, b0 = path[-1]
        along_w0, along_b0 = gradient_at(path[-1])
        path.append((w0 - learning_rate * along_w0, b0 - learning_rate * along_b0))
        if not max(map(abs, path[-1])) <= FAR:
            return Descent(path, "diverged")
        steepness.append(math.hypot(*gradient_at(path[-1])))
    if steepness[-1] <= tolerance:
        return Descent(path, "converged")
    return Descent(path, "diverged" if steepness[-1] > steepness[0] else "not there yet")
