"""The chain rule through one neuron and its loss (slide "Backpropagation")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from models.toys.neuron import ACTIVATIONS, DERIVATIVES, activate

TORCH_ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
FINITE_DIFFERENCE_STEP = 1e-5


@dataclass(frozen=True)
class Forward:
    """`z = x1·w1 + b`, `ŷ = f(z)`, `J = (y - ŷ)²`"""

    z: float
    prediction: float
    loss: float


@dataclass(frozen=True)
class Gradients:
    """The derivative of J with respect to each."""

    w1: float
    b: float
    x1: float


def forward(x1: float, w1: float, b: float, y: float, activation: str) -> Forward:
    """`ValueError` where a value is not finite, or the activation unknown."""
    for value in (x1, w1, b, y):
        if not math.isfinite(value):
            raise ValueError(f"x1, w1, b and y should be finite numbers, not {value}")
    z = x1 * w1 + b
    prediction = activate(z, activation)
    return Forward(z, prediction, (y - prediction) ** 2)


def d_loss_d_prediction(y: float, prediction: float) -> float:
    """`∂J/∂ŷ = -2(y - ŷ)`"""
    return -2 * (y - prediction)


def d_prediction_d_z(z: float, activation: str) -> float:
    """`∂ŷ/∂z = f'(z)`"""
    return DERIVATIVES[activation](z)


def gradients_from_dz(d_z: float, x1: float, w1: float) -> Gradients:
    """From `∂J/∂z`, as `z = x1·w1 + b`: times x1, times 1, times w1."""
    return Gradients(w1=d_z * x1, b=d_z, x1=d_z * w1)


def gradients_by_chain_rule(x1: float, w1: float, b: float, y: float, activation: str) -> Gradients:
    """All backward steps in one call."""
    fwd = forward(x1, w1, b, y, activation)
    d_z = d_loss_d_prediction(y, fwd.prediction) * d_prediction_d_z(fwd.z, activation)
    return gradients_from_dz(d_z, x1, w1)


def gradients_by_autograd(x1: float, w1: float, b: float, y: float, activation: str) -> Gradients:
    """The same by PyTorch's autograd, in float64."""
    inputs, weight, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x1, w1, b))
    loss = (y - TORCH_ACTIVATIONS[activation](inputs * weight + bias)) ** 2
    loss.backward()  # type: ignore[no-untyped-call]
    values = [0.0 if leaf.grad is None else leaf.grad.item() for leaf in (weight, bias, inputs)]
    return Gradients(*values)


def gradients_by_finite_differences(x1: float, w1: float, b: float, y: float, activation: str) -> Gradients:
    """The same from the loss only: `(J(θ + h) - J(θ - h)) / 2h`, one parameter at a time."""

    def slope(dx1: float, dw1: float, db: float) -> float:
        above = forward(x1 + dx1, w1 + dw1, b + db, y, activation).loss
        below = forward(x1 - dx1, w1 - dw1, b - db, y, activation).loss
        return (above - below) / (2 * FINITE_DIFFERENCE_STEP)

    return Gradients(
        w1=slope(0, FINITE_DIFFERENCE_STEP, 0),
        b=slope(0, 0, FINITE_DIFFERENCE_STEP),
        x1=slope(FINITE_DIFFERENCE_STEP, 0, 0),
    )


assert ACTIVATIONS.keys() == DERIVATIVES.keys() == TORCH_ACTIVATIONS.keys()
