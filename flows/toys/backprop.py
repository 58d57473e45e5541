"""Backpropagation: the chain rule, step by step (slide "Backpropagation").

Forward, z = x1·w1 + b, ŷ = f(z), J = (y - ŷ)². Backward, from the loss to what it depends on:
∂J/∂ŷ = -2(y - ŷ), through the activation ∂J/∂z = ∂J/∂ŷ · f'(z), and then ∂J/∂w1, ∂J/∂b and ∂J/∂x1.
With x1 = 2, y = 7, w1 = 1 and b = 3 this is the talk's loss example.
"""

from dataclasses import astuple
from typing import Literal

from flows.toys import figures
from flows.toys.base import BoundedFloat, Table, publish, toy_flow, toy_task
from models.toys import backprop as chain
from models.toys.backprop import Forward, Gradients


@toy_task
def forward_pass(x1: float, w1: float, b: float, y: float, activation: str) -> Forward:
    return chain.forward(x1, w1, b, y, activation)


@toy_task
def loss_backward(y: float, seen: Forward) -> float:
    """∂J/∂ŷ"""
    return chain.d_loss_d_prediction(y, seen.prediction)


@toy_task
def activation_backward(by_prediction: float, seen: Forward, activation: str) -> float:
    """∂J/∂z = ∂J/∂ŷ · f'(z)"""
    return by_prediction * chain.d_prediction_d_z(seen.z, activation)


@toy_task
def linear_backward(by_sum: float, x1: float, w1: float) -> Gradients:
    """∂J/∂w1, ∂J/∂b, ∂J/∂x1"""
    return chain.gradients_from_dz(by_sum, x1, w1)


@toy_task
def numerical_checks(
    x1: float, w1: float, b: float, y: float, activation: str
) -> tuple[Gradients, Gradients]:
    """By PyTorch's autograd, and by finite differences."""
    given = (x1, w1, b, y, activation)
    return chain.gradients_by_autograd(*given), chain.gradients_by_finite_differences(*given)


@toy_flow
def backprop(
    x1: BoundedFloat = 2.0,
    w1: BoundedFloat = 1.0,
    b: BoundedFloat = 3.0,
    y: BoundedFloat = 7.0,
    activation: Literal["sigmoid", "tanh", "relu"] = "relu",
) -> Gradients:
    """∂J/∂w1, ∂J/∂b and ∂J/∂x1 of one neuron.

    Args:
        x1: the input
        w1: its weight
        b: the bias
        y: the target
        activation: the function f; sigmoid and tanh let little of the gradient through where |z| is large
    """
    fwd = forward_pass(x1, w1, b, y, activation)
    by_prediction = loss_backward(y, fwd)
    by_sum = activation_backward(by_prediction, fwd, activation)
    grads = linear_backward(by_sum, x1, w1)
    autograd, differences = numerical_checks(x1, w1, b, y, activation)

    forward = Table(
        ["forward", "is", "value"],
        [
            ("z", "x1·w1 + b", fwd.z),
            ("ŷ", f"{activation}(z)", fwd.prediction),
            ("J", "(y - ŷ)²", fwd.loss),
        ],
    )
    backward = Table(
        ["backward", "is", "chain rule", "autograd", "finite differences"],
        [
            ("∂J/∂ŷ", "-2(y - ŷ)", by_prediction, "", ""),
            ("∂J/∂z", "∂J/∂ŷ · f'(z)", by_sum, "", ""),
            *zip(
                ("∂J/∂w1", "∂J/∂b", "∂J/∂x1"),
                ("∂J/∂z · x1", "∂J/∂z", "∂J/∂z · w1"),
                astuple(grads),
                astuple(autograd),
                astuple(differences),
                strict=True,
            ),
        ],
    )
    note = (
        f"The chain rule differs from autograd by {_max_abs_diff(grads, autograd):.1g} at most, "
        f"from finite differences by {_max_abs_diff(grads, differences):.1g}."
    )
    says = [
        note,
        f"The activation lets {chain.d_prediction_d_z(fwd.z, activation):.3g} of the gradient through.",
    ]
    if activation == "relu" and abs(fwd.z) < chain.FINITE_DIFFERENCE_STEP * max(1, abs(x1), abs(w1)):
        says.append(
            "At its kink ReLU has no slope: finite differences see both sides of it, PyTorch takes 0."
        )
    picture = figures.backprop((x1, w1, b, y), fwd, (by_prediction, by_sum), grads, activation)
    publish("backprop", [forward, backward], says, picture)
    return grads


def _max_abs_diff(one: Gradients, other: Gradients) -> float:
    return max(abs(one.w1 - other.w1), abs(one.b - other.b), abs(one.x1 - other.x1))


if __name__ == "__main__":
    backprop.fn()
