"""Backpropagation: the chain rule, step by step (slide "Backpropagation").

Forward, z = x1·w1 + b, ŷ = f(z), J = (y - ŷ)². Backward, from the loss to what it depends on:
∂J/∂ŷ = -2(y - ŷ), through the activation ∂J/∂z = ∂J/∂ŷ · f'(z), and then ∂J/∂w1, ∂J/∂b and ∂J/∂x1.
With x1 = 2, y = 7, w1 = 1 and b = 3 this is the talk's loss example.
"""

from dataclasses import astuple
from typing import Literal

from flows.toys import figures
from flows.toys.base import Number, Table, publish, step, toy
from models.toys import backprop as chain
from models.toys.backprop import Forward, Gradients


@step
def forward_pass(x1: float, w1: float, b: float, y: float, activation: str) -> Forward:
    return chain.forward(x1, w1, b, y, activation)


@step
def through_the_loss(y: float, seen: Forward) -> float:
    """∂J/∂ŷ"""
    return chain.loss_by_prediction(y, seen.prediction)


@step
def through_the_activation(by_prediction: float, seen: Forward, activation: str) -> float:
    """∂J/∂z = ∂J/∂ŷ · f'(z)"""
    return by_prediction * chain.prediction_by_sum(seen.z, activation)


@step
def through_the_sum(by_sum: float, x1: float, w1: float) -> Gradients:
    """∂J/∂w1, ∂J/∂b, ∂J/∂x1"""
    return chain.gradients(by_sum, x1, w1)


@step
def checks(x1: float, w1: float, b: float, y: float, activation: str) -> tuple[Gradients, Gradients]:
    """By PyTorch's autograd, and by finite differences."""
    given = (x1, w1, b, y, activation)
    return chain.by_autograd(*given), chain.by_finite_differences(*given)


@toy
def backprop(
    x1: Number = 2.0,
    w1: Number = 1.0,
    b: Number = 3.0,
    y: Number = 7.0,
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
    seen = forward_pass(x1, w1, b, y, activation)
    by_prediction = through_the_loss(y, seen)
    by_sum = through_the_activation(by_prediction, seen, activation)
    by = through_the_sum(by_sum, x1, w1)
    autograd, differences = checks(x1, w1, b, y, activation)

    forward = Table(
        ["forward", "is", "value"],
        [
            ("z", "x1·w1 + b", seen.z),
            ("ŷ", f"{activation}(z)", seen.prediction),
            ("J", "(y - ŷ)²", seen.loss),
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
                astuple(by),
                astuple(autograd),
                astuple(differences),
                strict=True,
            ),
        ],
    )
    said = (
        f"The chain rule differs from autograd by {_apart(by, autograd):.1g} at most, "
        f"from finite differences by {_apart(by, differences):.1g}."
    )
    says = [
        said,
        f"The activation lets {chain.prediction_by_sum(seen.z, activation):.3g} of the gradient through.",
    ]
    if activation == "relu" and abs(seen.z) < chain.STEP * max(1, abs(x1), abs(w1)):
        says.append(
            "At its kink ReLU has no slope: finite differences see both sides of it, PyTorch takes 0."
        )
    picture = figures.backprop((x1, w1, b, y), seen, (by_prediction, by_sum), by, activation)
    publish("backprop", [forward, backward], says, picture)
    return by


def _apart(one: Gradients, other: Gradients) -> float:
    return max(abs(one.w1 - other.w1), abs(one.b - other.b), abs(one.x1 - other.x1))


if __name__ == "__main__":
    backprop.fn()
