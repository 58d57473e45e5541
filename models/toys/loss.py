"""Loss functions (slides "Loss Function" and "Loss Function - Beispiel")."""

import math
from collections.abc import Sequence

from models.toys.neuron import sigmoid

LOG_CLAMP = -100.0  # as in PyTorch: log(0) would be infinite


def predict(x: float, w0: float, b0: float) -> float:
    """The talk's network of one weight and one bias: `x·w0 + b0`."""
    return x * w0 + b0


def mean_squared_error(targets: Sequence[float], predictions: Sequence[float]) -> float:
    """`1/n Σ (y - ŷ)²`. `ValueError` where the lengths differ or are 0, or a value is not finite."""
    _validate(targets, predictions)
    return sum((y - p) ** 2 for y, p in zip(targets, predictions, strict=True)) / len(targets)


def binary_cross_entropy(targets: Sequence[float], probabilities: Sequence[float]) -> float:
    """`-1/n Σ y·log ŷ + (1-y)·log(1-ŷ)`, with logarithms no less than -100, as in PyTorch.

    `ValueError` where the lengths differ or are 0, or a value is not in 0 to 1.
    """
    return -cross_entropy_without_minus(targets, probabilities)


def cross_entropy_without_minus(targets: Sequence[float], probabilities: Sequence[float]) -> float:
    """The formula as the talk's slide prints it: without the minus sign."""
    _validate(targets, probabilities)
    for value in (*targets, *probabilities):
        if not 0 <= value <= 1:
            raise ValueError(f"targets and probabilities should be from 0 to 1, not {value}")
    pairs = zip(targets, probabilities, strict=True)
    return sum(y * _log(p) + (1 - y) * _log(1 - p) for y, p in pairs) / len(targets)


def fit_neuron(
    inputs: Sequence[float], targets: Sequence[float], learning_rate: float, steps: int, *, sign: float
) -> tuple[float, float]:
    """Weight and bias of `sigmoid(x·w + b)` after gradient descent from 0 on the binary cross-entropy.

    `sign` 1 descends on the binary cross-entropy, -1 on the slide's version. The gradient is that of the
    cross-entropy through the sigmoid: the mean of `(ŷ - y)·x` and of `ŷ - y`.
    """
    _validate(targets, inputs)
    weight = bias = 0.0
    for _ in range(steps):
        errors = [sigmoid(x * weight + bias) - y for x, y in zip(inputs, targets, strict=True)]
        weight_gradient = sum(e * x for e, x in zip(errors, inputs, strict=True)) / len(inputs)
        bias_gradient = sum(errors) / len(inputs)
        weight -= learning_rate * sign * weight_gradient
        bias -= learning_rate * sign * bias_gradient
    return weight, bias


def _log(value: float) -> float:
    return max(math.log(value), LOG_CLAMP) if value > 0 else LOG_CLAMP


def _validate(targets: Sequence[float], predictions: Sequence[float]) -> None:
    if not targets:
        raise ValueError("a loss needs at least one target")
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets need as many predictions, not {len(predictions)}")
    for value in (*targets, *predictions):
        if not math.isfinite(value):
            raise ValueError(f"targets and predictions should be finite numbers, not {value}")
