"""Gradient descent on the talk's example (slides "Loss Function - Beispiel" and "Gradient Descent")."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
"""(w0, b0)"""

DIVERGENCE_THRESHOLD = 1e6  # parameters beyond this have diverged


@dataclass(frozen=True)
class Trajectory:
    """The path of a gradient descent."""

    path: list[Point]
    """from the start on, one point per step"""
    outcome: Literal["converged", "not there yet", "diverged"]


def loss(parameters: Point, x: float, y: float) -> float:
    """`J(w0, b0) = (y - (x·w0 + b0))²`"""
    w0, b0 = parameters
    return (y - (x * w0 + b0)) ** 2


def gradient(parameters: Point, x: float, y: float) -> Point:
    """`∇J = (∂J/∂w0, ∂J/∂b0)`"""
    w0, b0 = parameters
    d_loss_d_prediction = -2 * (y - (x * w0 + b0))
    return d_loss_d_prediction * x, d_loss_d_prediction


def gradient_descent(
    gradient_at: Callable[[Point], Point],
    start: Point,
    learning_rate: float,
    *,
    max_steps: int,
    tolerance: float,
) -> Trajectory:
    """`θ <- θ - α·∇J` until the gradient's norm is at most `tolerance`, or a parameter has diverged.

    After `max_steps` it is "not there yet", or "diverged" if the gradient's norm is larger than at the start.

    `ValueError` where the learning rate is not positive, or the start not finite.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"the learning rate should be greater than 0, not {learning_rate}")
    if not all(map(math.isfinite, start)):
        raise ValueError(f"the descent should start at finite numbers, not {start}")
    path = [start]
    gradient_norms = [math.hypot(*gradient_at(start))]
    while gradient_norms[-1] > tolerance and len(path) <= max_steps:
        w0, b0 = path[-1]
        grad_w0, grad_b0 = gradient_at(path[-1])
        path.append((w0 - learning_rate * grad_w0, b0 - learning_rate * grad_b0))
        if not max(map(abs, path[-1])) <= DIVERGENCE_THRESHOLD:
            return Trajectory(path, "diverged")
        gradient_norms.append(math.hypot(*gradient_at(path[-1])))
    if gradient_norms[-1] <= tolerance:
        return Trajectory(path, "converged")
    return Trajectory(path, "diverged" if gradient_norms[-1] > gradient_norms[0] else "not there yet")
