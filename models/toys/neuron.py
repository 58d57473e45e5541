"""What an artificial neuron computes (slides "Was macht ein Neuron?" and "Activation Functions")."""

import math
from collections.abc import Callable, Sequence


def sigmoid(z: float) -> float:
    """`1 / (1 + e^-z)`, without overflow for any z."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def relu(z: float) -> float:
    """`max(0, z)`"""
    return max(0.0, z)


ACTIVATIONS: dict[str, Callable[[float], float]] = {"sigmoid": sigmoid, "tanh": math.tanh, "relu": relu}

DERIVATIVES: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda z: sigmoid(z) * sigmoid(-z),
    "tanh": lambda z: (1 - math.tanh(z)) * (1 + math.tanh(z)),
    "relu": lambda z: float(z > 0),  # at the kink 0, as PyTorch has it
}
"""f'(z) of each activation"""


def multiply(inputs: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Each input times its weight. `ValueError` where there are not as many weights as inputs."""
    if len(inputs) != len(weights):
        raise ValueError(f"{len(inputs)} inputs need as many weights, not {len(weights)}")
    return [x * w for x, w in zip(inputs, weights, strict=True)]


def activate(z: float, activation: str) -> float:
    """`f(z)`. `ValueError` where z is NaN, or the activation unknown."""
    if math.isnan(z):
        raise ValueError("the neuron's sum is not a number")
    if activation not in ACTIVATIONS:
        raise ValueError(f"there is no activation {activation!r}, only {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation](z)


def neuron(inputs: Sequence[float], weights: Sequence[float], bias: float, activation: str) -> float:
    """`f(bias + x1·w1 + x2·w2 + …)`"""
    return activate(bias + sum(multiply(inputs, weights)), activation)
