"""Backpropagation: the chain rule, step by step (slide "Backpropagation").

The forward pass computes z = x1·w1 + b, ŷ = f(z) and J = (y - ŷ)². The backward pass goes from the loss to
what it depends on: ∂J/∂ŷ = -2(y - ŷ), through the activation ∂J/∂z = ∂J/∂ŷ · f'(z), and then ∂J/∂w1, ∂J/∂b
and ∂J/∂x1. With x1 = 2, y = 7, w1 = 1 and b = 3 this is the talk's loss example.
"""

import math
from dataclasses import astuple, dataclass
from typing import Literal

import torch
from matplotlib import rc_context

from flows.run.tables import Table
from flows.toys.base import (
    BoundedFloat,
    create_figure,
    draw_arrow,
    draw_node,
    format_number,
    present,
    toy_flow,
    toy_task,
)
from flows.toys.neuron import DERIVATIVES, TORCH_ACTIVATIONS, activate
from tasks.reporting.svg import BLUE, MUTED, ORANGE, STYLE, render_svg

FINITE_DIFFERENCE_STEP = 1e-5


@dataclass(frozen=True)
class Forward:
    """The values of the forward pass: `z = x1·w1 + b`, `ŷ = f(z)`, `J = (y - ŷ)²`."""

    z: float
    prediction: float
    loss: float


@dataclass(frozen=True)
class Gradients:
    """The derivative of J with respect to each of these."""

    w1: float
    b: float
    x1: float


@toy_task
def forward_pass(x1: float, w1: float, b: float, y: float, activation: str) -> Forward:
    """Compute the loss of one neuron; each value must be finite, and the activation known."""
    for value in (x1, w1, b, y):
        if not math.isfinite(value):
            raise ValueError(f"x1, w1, b and y should be finite numbers, not {value}")
    z = x1 * w1 + b
    prediction = activate(z, activation)
    return Forward(z, prediction, (y - prediction) ** 2)


@toy_task
def loss_backward(y: float, fwd: Forward) -> float:
    """Compute `∂J/∂ŷ = -2(y - ŷ)`."""
    return -2 * (y - fwd.prediction)


@toy_task
def activation_backward(d_prediction: float, fwd: Forward, activation: str) -> float:
    """Compute `∂J/∂z = ∂J/∂ŷ · f'(z)`."""
    return d_prediction * DERIVATIVES[activation](fwd.z)


@toy_task
def linear_backward(d_z: float, x1: float, w1: float) -> Gradients:
    """Compute the gradients from `∂J/∂z`: as `z = x1·w1 + b`, it is multiplied by x1, by 1 and by w1."""
    return Gradients(w1=d_z * x1, b=d_z, x1=d_z * w1)


@toy_task
def gradients_by_autograd(x1: float, w1: float, b: float, y: float, activation: str) -> Gradients:
    """Compute the same gradients by PyTorch's autograd, in float64."""
    inputs, weight, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x1, w1, b))
    loss = (y - TORCH_ACTIVATIONS[activation](inputs * weight + bias)) ** 2
    loss.backward()  # type: ignore[no-untyped-call]
    values = [0.0 if leaf.grad is None else leaf.grad.item() for leaf in (weight, bias, inputs)]
    return Gradients(*values)


@toy_task
def gradients_by_finite_differences(x1: float, w1: float, b: float, y: float, activation: str) -> Gradients:
    """Estimate the gradients from the loss alone: `(J(θ + h) - J(θ - h)) / 2h`, one parameter at a time."""
    step = FINITE_DIFFERENCE_STEP

    def slope(dx1: float, dw1: float, db: float) -> float:
        above = forward_pass(x1 + dx1, w1 + dw1, b + db, y, activation).loss
        below = forward_pass(x1 - dx1, w1 - dw1, b - db, y, activation).loss
        return (above - below) / (2 * step)

    return Gradients(w1=slope(0, step, 0), b=slope(0, 0, step), x1=slope(step, 0, 0))


@toy_flow
def backprop(
    x1: BoundedFloat = 2.0,
    w1: BoundedFloat = 1.0,
    b: BoundedFloat = 3.0,
    y: BoundedFloat = 7.0,
    activation: Literal["sigmoid", "tanh", "relu"] = "relu",
) -> Gradients:
    """Compute ∂J/∂w1, ∂J/∂b and ∂J/∂x1 of one neuron.

    Args:
        x1: the input
        w1: its weight
        b: the bias
        y: the target
        activation: the function f; sigmoid and tanh let little of the gradient through where |z| is large
    """
    fwd = forward_pass(x1, w1, b, y, activation)
    d_prediction = loss_backward(y, fwd)
    d_z = activation_backward(d_prediction, fwd, activation)
    grads = linear_backward(d_z, x1, w1)
    autograd = gradients_by_autograd(x1, w1, b, y, activation)
    differences = gradients_by_finite_differences(x1, w1, b, y, activation)

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
            ("∂J/∂ŷ", "-2(y - ŷ)", d_prediction, "", ""),
            ("∂J/∂z", "∂J/∂ŷ · f'(z)", d_z, "", ""),
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
    from_autograd = f"from autograd by {_max_abs_diff(grads, autograd):.1g} at most"
    from_differences = f"from finite differences by {_max_abs_diff(grads, differences):.1g}"
    slope = DERIVATIVES[activation](fwd.z)
    takeaways = [
        f"The chain rule differs {from_autograd}, {from_differences}.",
        f"The activation lets {slope:.3g} of the gradient through.",
    ]
    if activation == "relu" and abs(fwd.z) < FINITE_DIFFERENCE_STEP * max(1, abs(x1), abs(w1)):
        takeaways.append(
            "At its kink ReLU has no slope: finite differences see both sides of it, PyTorch takes 0."
        )
    svg = plot((x1, w1, b, y), fwd, (d_prediction, d_z), grads, activation)
    present("backprop", [forward, backward], takeaways, svg)
    return grads


def _max_abs_diff(one: Gradients, other: Gradients) -> float:
    return max(abs(one.w1 - other.w1), abs(one.b - other.b), abs(one.x1 - other.x1))


@rc_context(STYLE)
def plot(
    inputs: tuple[float, float, float, float],
    fwd: Forward,
    inner_grads: tuple[float, float],
    grads: Gradients,
    activation: str,
) -> str:
    """Draw the computation graph, with each value in its node and the gradient of J below it.

    `inputs` is (x1, w1, b, y), and `inner_grads` is (∂J/∂ŷ, ∂J/∂z).
    """
    figure, axes = create_figure(3.1)
    axes.set(xlim=(-0.75, 6.75), ylim=(-0.62, 2.75))
    axes.axis("off")
    x1, w1, b, y = inputs
    d_prediction, d_z = inner_grads
    nodes = {
        "x1": ((0, 2.1), x1, "∂J/∂x1", grads.x1),
        "w1": ((0, 1.05), w1, "∂J/∂w1", grads.w1),
        "b": ((0, 0), b, "∂J/∂b", grads.b),
        "z": ((2.2, 1.05), fwd.z, "∂J/∂z", d_z),
        "ŷ": ((4.2, 1.05), fwd.prediction, "∂J/∂ŷ", d_prediction),
        "J": ((6.2, 1.05), fwd.loss, "", None),
    }
    for start, end in (("x1", "z"), ("w1", "z"), ("b", "z"), ("z", "ŷ"), ("ŷ", "J")):
        draw_arrow(axes, nodes[start][0], nodes[end][0])
    for name, (position, value, grad_name, grad) in nodes.items():
        draw_node(axes, position, f"{name}\n{format_number(value)}", size=38, color=BLUE)
        if grad is not None:
            axes.annotate(
                f"{grad_name} = {format_number(grad)}",
                position,
                xytext=(0, -23),
                textcoords="offset points",
                ha="center",
                va="top",
                color=ORANGE,
                fontsize=9.5,
            )
    axes.text(2.2, 1.68, "z = x1·w1 + b", ha="center", color=MUTED)
    axes.text(4.2, 1.68, f"ŷ = {activation}(z)", ha="center", color=MUTED)
    axes.text(6.2, 1.68, "J = (y − ŷ)²", ha="center", color=MUTED)
    axes.text(6.2, 0.3, f"target y = {format_number(y)}", ha="center", color=MUTED)
    axes.text(4.2, 2.5, "forward: values →", ha="center", color=BLUE)
    axes.text(4.2, -0.45, "← backward: gradients, by the chain rule", ha="center", color=ORANGE)
    return render_svg(figure)


if __name__ == "__main__":
    backprop.fn()
