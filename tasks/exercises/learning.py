"""The exercises about learning: gradient descent, and backpropagation through one neuron."""

import math
from collections.abc import Callable, Sequence

from tasks.exercises.checking import Exercise
from tasks.exercises.forward import sigmoid

Vector = Sequence[float]
Gradient = Callable[[list[float]], list[float]]


def gradient_descent(gradient: Gradient, theta: Vector, alpha: float, steps: int) -> list[float]:
    theta = list(theta)
    for _ in range(steps):
        theta = [t - alpha * g for t, g in zip(theta, gradient(theta), strict=True)]
    return theta


def backprop(x: float, y: float, w: float, b: float) -> tuple[float, float, float]:
    y_hat = sigmoid(w * x + b)
    d_z = -2 * (y - y_hat) * y_hat * (1 - y_hat)
    return d_z * x, d_z, d_z * w


def line_gradient(theta: list[float]) -> list[float]:
    """Compute ∇J of `J = (y - (x·w + b))²` with x = 2 and y = 7, at θ = [w, b]."""
    w, b = theta
    d_y_hat = -2 * (7 - (2 * w + b))
    return [2 * d_y_hat, d_y_hat]


def bowl_gradient(theta: list[float]) -> list[float]:
    """Compute ∇J of a valley in three dimensions, whose axes have different slopes."""
    return [(i + 1) * value + 0.5 * theta[i - 1] for i, value in enumerate(theta)]


def _replace_theta(gradient: Gradient, theta: Vector, alpha: float, steps: int) -> list[float]:
    theta = list(theta)
    for _ in range(steps):
        theta = [-alpha * g for g in gradient(theta)]
    return theta


def _one_by_one(gradient: Gradient, theta: Vector, alpha: float, steps: int) -> list[float]:
    changed = list(theta)
    for _ in range(steps):
        for i in range(len(changed)):
            changed[i] -= alpha * gradient(changed)[i]
    return changed


def _norm(vector: Vector) -> float:
    return math.hypot(*vector)


def _backprop_with(
    x: float,
    w: float,
    b: float,
    d_y_hat: Callable[[float], float],
    slope: Callable[[float], float] = lambda y_hat: y_hat * (1 - y_hat),
) -> tuple[float, float, float]:
    """Go backward with another ∂J/∂ŷ or another f'(z), each as a function of ŷ."""
    y_hat = sigmoid(w * x + b)
    d_z = d_y_hat(y_hat) * slope(y_hat)
    return d_z * x, d_z, d_z * w


def _slope_at(z: float) -> float:
    return sigmoid(z) * (1 - sigmoid(z))


def _reordered(x: float, y: float, w: float, b: float, order: Sequence[int]) -> list[float]:
    gradients = backprop(x, y, w, b)
    return [gradients[i] for i in order]


GRADIENT_DESCENT = Exercise(
    gradient_descent,
    cases=[
        (line_gradient, [1.0, 3.0], 0.05, 3),
        (bowl_gradient, [1.0, -2.0, 0.5], 0.1, 4),
        (line_gradient, [1.0, 3.0], 0.02, 1),
        (line_gradient, [1.0, 3.0], 0.05, 0),
    ],
    mistakes={
        "It climbs: the gradient points uphill, so subtract it, θ ← θ - α·∇J.": (
            lambda gradient, theta, alpha, steps: gradient_descent(gradient, theta, -alpha, steps)
        ),
        "It takes one step only: `return` stands inside the loop, or the loop is missing.": (
            lambda gradient, theta, alpha, steps: gradient_descent(gradient, theta, alpha, min(steps, 1))
        ),
        "It takes one step, whatever `steps` says: repeat it `steps` times.": (
            lambda gradient, theta, alpha, steps: gradient_descent(gradient, theta, alpha, 1)
        ),
        "It takes one step too many: range(steps) counts from 0.": (
            lambda gradient, theta, alpha, steps: gradient_descent(gradient, theta, alpha, steps + 1)
        ),
        "It takes one step too few: range(steps) has `steps` numbers.": (
            lambda gradient, theta, alpha, steps: gradient_descent(gradient, theta, alpha, max(0, steps - 1))
        ),
        "The learning rate α is missing: θ ← θ - α·∇J.": (
            lambda gradient, theta, alpha, steps: gradient_descent(gradient, theta, 1.0, steps)
        ),
        "It divides by the learning rate; multiply the gradient by α.": (
            lambda gradient, theta, alpha, steps: gradient_descent(gradient, theta, 1 / alpha, steps)
        ),
        "θ is replaced by the step; subtract the step from θ: θ ← θ - α·∇J.": (_replace_theta),
        "The gradient is computed once, at the start; compute it anew at each θ, inside the loop.": (
            lambda gradient, theta, alpha, steps: gradient_descent(
                lambda _: gradient(list(theta)), theta, alpha, steps
            )
        ),
        "Some parameters have moved when ∇J is computed for others: compute it first, then move all.": (
            _one_by_one
        ),
        "Only the first parameter moves; each one has its part of the gradient.": (
            lambda gradient, theta, alpha, steps: gradient_descent(
                lambda at: [g * (i == 0) for i, g in enumerate(gradient(at))], theta, alpha, steps
            )
        ),
        "Each parameter moves by the first part of the gradient; parameter i has part i.": (
            lambda gradient, theta, alpha, steps: gradient_descent(
                lambda at: [gradient(at)[0]] * len(at), theta, alpha, steps
            )
        ),
        "Only the sign of the gradient counts; its size says how far to go.": (
            lambda gradient, theta, alpha, steps: gradient_descent(
                lambda at: [(g > 0) - (g < 0) for g in gradient(at)], theta, alpha, steps
            )
        ),
        "Each step has the length α; α multiplies the gradient, so steps become shorter in the valley.": (
            lambda gradient, theta, alpha, steps: gradient_descent(
                lambda at: [g / _norm(gradient(at)) for g in gradient(at)], theta, alpha, steps
            )
        ),
        "This is the gradient at the end; return θ.": (
            lambda gradient, theta, alpha, steps: gradient(gradient_descent(gradient, theta, alpha, steps))
        ),
        "θ comes back as it was: keep what each step computes, `theta = ...`.": (
            lambda gradient, theta, alpha, steps: list(theta)
        ),
    },
)

BACKPROP = Exercise(
    backprop,
    cases=[(2.0, 1.0, 0.3, -0.5), (-1.5, 0.0, 0.8, 0.4), (0.5, 0.25, -2.0, 1.5)],
    mistakes={
        "The sign of ∂J/∂ŷ = -2(y - ŷ) is wrong: compare with finite differences at w = 0.3.": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: 2 * (y - p))
        ),
        "The factor 2 of ∂J/∂ŷ = -2(y - ŷ) is missing: the derivative of a square has it.": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: -(y - p))
        ),
        "The factor 2 and the sign of ∂J/∂ŷ = -2(y - ŷ) are missing.": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: y - p)
        ),
        "The activation is left out on the way back: ∂J/∂z = ∂J/∂ŷ · f'(z), with f'(z) = ŷ(1 - ŷ).": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: -2 * (y - p), lambda _: 1)
        ),
        "f' is taken at ŷ; it is f'(z) = ŷ(1 - ŷ), and ŷ is f(z) already.": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: -2 * (y - p), _slope_at)
        ),
        "This takes z(1 - z) for f'(z); it is ŷ(1 - ŷ).": (
            lambda x, y, w, b: _backprop_with(
                x, w, b, lambda p: -2 * (y - p), lambda _: (w * x + b) * (1 - w * x - b)
            )
        ),
        "This takes ŷ for f'(z); the factor (1 - ŷ) is missing.": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: -2 * (y - p), lambda p: p)
        ),
        "This takes 1 - ŷ for f'(z); the factor ŷ is missing.": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: -2 * (y - p), lambda p: 1 - p)
        ),
        "This takes 1 - ŷ² for f'(z), which is the slope of tanh; that of the sigmoid is ŷ(1 - ŷ).": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: -2 * (y - p), lambda p: 1 - p * p)
        ),
        "This is the slope of ReLU, 1 or 0; that of the sigmoid is ŷ(1 - ŷ).": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda p: -2 * (y - p), lambda _: float(w * x + b > 0))
        ),
        "It compares y with z; the prediction is ŷ = f(z).": (
            lambda x, y, w, b: _backprop_with(x, w, b, lambda _: -2 * (y - w * x - b))
        ),
        "∂J/∂w lacks its factor x: z = w·x + b, so ∂z/∂w = x.": (
            lambda x, y, w, b: _reordered(x, y, w, b, (1, 1, 2))
        ),
        "∂J/∂x lacks its factor w: z = w·x + b, so ∂z/∂x = w.": (
            lambda x, y, w, b: _reordered(x, y, w, b, (0, 1, 1))
        ),
        "∂J/∂b is multiplied by b; z = w·x + b, so ∂z/∂b = 1.": (
            lambda x, y, w, b: (backprop(x, y, w, b)[0], backprop(x, y, w, b)[1] * b, backprop(x, y, w, b)[2])
        ),
        "∂J/∂b is multiplied by x, as ∂J/∂w is; z = w·x + b, so ∂z/∂b = 1.": (
            lambda x, y, w, b: _reordered(x, y, w, b, (0, 0, 2))
        ),
        "∂J/∂w and ∂J/∂x are exchanged: ∂z/∂w = x, and ∂z/∂x = w.": (
            lambda x, y, w, b: _reordered(x, y, w, b, (2, 1, 0))
        ),
        "∂J/∂w and ∂J/∂b are exchanged: return (∂J/∂w, ∂J/∂b, ∂J/∂x).": (
            lambda x, y, w, b: _reordered(x, y, w, b, (1, 0, 2))
        ),
        "∂J/∂b and ∂J/∂x are exchanged: return (∂J/∂w, ∂J/∂b, ∂J/∂x).": (
            lambda x, y, w, b: _reordered(x, y, w, b, (0, 2, 1))
        ),
        "This is J; return its derivatives (∂J/∂w, ∂J/∂b, ∂J/∂x).": (
            lambda x, y, w, b: (y - sigmoid(w * x + b)) ** 2
        ),
    },
)
