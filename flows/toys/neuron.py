"""One neuron (slides "Was macht ein Neuron?" and "Activation Functions").

    def neuron(x1, x2, x3):
        sum = w0 + x1*w1 + x2*w2 + x3*w3
        return sigmoid(sum)

Each step of the slide is a task: multiply every input by its weight, sum and add the bias, activate.
`torch.nn.Linear` and an activation compute the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes

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
from tasks.reporting.svg import BLUE, MUTED, ORANGE, PAPER, STYLE, render_svg


def sigmoid(z: float) -> float:
    """Compute `1 / (1 + e^-z)`, without overflow for any z."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def relu(z: float) -> float:
    """Compute `max(0, z)`."""
    return max(0.0, z)


ACTIVATIONS: dict[str, Callable[[float], float]] = {"sigmoid": sigmoid, "tanh": math.tanh, "relu": relu}
TORCH_ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
DERIVATIVES: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda z: sigmoid(z) * sigmoid(-z),
    "tanh": lambda z: (1 - math.tanh(z)) * (1 + math.tanh(z)),
    "relu": lambda z: float(z > 0),  # PyTorch takes 0 at the kink as well
}
"""f'(z) of each activation"""


@toy_task
def multiply(inputs: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Multiply each input by its weight; there must be as many weights as inputs."""
    if len(inputs) != len(weights):
        raise ValueError(f"{len(inputs)} inputs need as many weights, not {len(weights)}")
    return [x * w for x, w in zip(inputs, weights, strict=True)]


@toy_task
def add_up(products: Sequence[float]) -> float:
    return sum(products)


@toy_task
def add_bias(total: float, bias: float) -> float:
    return total + bias


@toy_task
def activate(z: float, activation: str) -> float:
    """Compute `f(z)`; z must be a number, and `activation` one of `ACTIVATIONS`."""
    if math.isnan(z):
        raise ValueError("the neuron's sum is not a number")
    if activation not in ACTIVATIONS:
        raise ValueError(f"there is no activation {activation!r}, only {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation](z)


@toy_task
def with_torch_linear(
    inputs: Sequence[float], weights: Sequence[float], bias: float, activation: str
) -> float:
    """Compute the same neuron with `torch.nn.Linear`, in float64."""
    linear = torch.nn.Linear(len(inputs), 1, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([weights], dtype=torch.float64))
        linear.bias.fill_(bias)
        z = linear(torch.tensor(inputs, dtype=torch.float64))
        return float(TORCH_ACTIVATIONS[activation](z))


@toy_flow
def neuron(
    x1: BoundedFloat = 1.0,
    x2: BoundedFloat = 2.0,
    x3: BoundedFloat = 3.0,
    w0: BoundedFloat = 0.5,
    w1: BoundedFloat = 0.8,
    w2: BoundedFloat = -0.4,
    w3: BoundedFloat = 0.2,
    activation: Literal["sigmoid", "tanh", "relu"] = "sigmoid",
) -> float:
    """Compute f(w0 + x1·w1 + x2·w2 + x3·w3) step by step.

    Args:
        x1: the first input
        x2: the second input
        x3: the third input
        w0: the bias
        w1: the weight of the first input
        w2: the weight of the second input
        w3: the weight of the third input
        activation: the function f
    """
    inputs, weights = (x1, x2, x3), (w1, w2, w3)
    products = multiply(inputs, weights)
    total = add_up(products)
    z = add_bias(total, w0)
    output = activate(z, activation)
    torch_output = with_torch_linear(inputs, weights, w0, activation)

    steps = Table(
        ["step", "calculation", "result"],
        [
            *(
                (f"1. multiply x{i}·w{i}", f"{x:g} · {w:g}", product)
                for i, (x, w, product) in enumerate(zip(inputs, weights, products, strict=True), start=1)
            ),
            ["2. sum", _write_sum(products), total],
            ["   and bias", _write_sum((total, w0)), z],
            ["3. activate", f"{activation}({z:.10g})", output],
            ["torch.nn.Linear", "", torch_output],
        ],
    )
    difference = abs(output - torch_output)
    others = ", ".join(f"{name} gives {function(z):.4g}" for name, function in ACTIVATIONS.items())
    takeaways = [
        f"Of the sum {z:g}, {others}.",
        f"PyTorch's neuron gives the same{f', up to {difference:.1g}' if difference else ''}.",
    ]
    present("neuron", [steps], takeaways, plot(inputs, weights, w0, z, activation))
    return output


def _write_sum(terms: Sequence[float]) -> str:
    """Write `0.8 - 0.8 + 0.6`, with ten significant digits each."""
    first, *rest = terms
    return f"{first:.10g}" + "".join(f" {'-' if term < 0 else '+'} {abs(term):.10g}" for term in rest)


@rc_context(STYLE)
def plot(inputs: Sequence[float], weights: Sequence[float], bias: float, z: float, activation: str) -> str:
    """Draw the neuron with its three inputs and all numbers, and its sum on the curves of the activations."""
    figure, (diagram_ax, curves_ax) = create_figure(2.9, columns=(1.15, 1))
    _plot_diagram(diagram_ax, inputs, weights, bias, z, activation)
    _plot_activations(curves_ax, z, activation)
    return render_svg(figure)


def _plot_diagram(
    axes: Axes, inputs: Sequence[float], weights: Sequence[float], bias: float, z: float, activation: str
) -> None:
    axes.set(xlim=(-0.35, 4.2), ylim=(-0.45, 3.45))
    axes.axis("off")
    edges = [
        (f"x{i}\n{format_number(x)}", f"w{i} = {format_number(w)}")
        for i, (x, w) in enumerate(zip(inputs, weights, strict=True), start=1)
    ]
    edges.append(("1", f"w0 = {format_number(bias)}"))
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    for height, (node_label, edge_label) in zip((3, 2, 1, 0), edges, strict=True):
        draw_arrow(axes, (0, height), (2.35, 1.5))
        draw_node(axes, (0, height), node_label)
        axes.text(
            1.0,
            height + (1.5 - height) * 1.0 / 2.35,
            edge_label,
            ha="center",
            va="center",
            fontsize=9,
            color=BLUE,
            bbox=box,
        )
    draw_arrow(axes, (2.35, 1.5), (3.75, 1.5))
    draw_node(axes, (2.35, 1.5), f"Σ\n{format_number(z)}", size=40)
    output = ACTIVATIONS[activation](z)
    draw_node(axes, (3.75, 1.5), f"f\n{format_number(output)}", size=40, color=ORANGE)
    axes.text(3.75, 2.25, activation, ha="center", color=ORANGE)
    axes.text(2.35, 2.25, "sum, bias", ha="center", color=MUTED)


def _plot_activations(axes: Axes, z: float, activation: str) -> None:
    output = ACTIVATIONS[activation](z)
    reach = max(4.0, 1.3 * abs(z))
    top = min(reach, max(2.2, 1.2 * output))
    grid = np.linspace(-reach, reach, 241)
    other_styles = iter(("--", ":"))
    for name, function in ACTIVATIONS.items():
        line_style: dict[str, Any] = (
            {"color": BLUE, "lw": 2.4} if name == activation else {"color": MUTED, "ls": next(other_styles)}
        )
        axes.plot(grid, [function(float(x)) for x in grid], label=name, **line_style)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, frameon=False, columnspacing=1.2)
    axes.plot([z, z], [0, output], color=ORANGE, linewidth=1.2, linestyle=":")
    axes.plot([z], [output], "o", color=ORANGE, markersize=8)
    label_left = z > 0.4 * reach
    axes.annotate(
        f"f({format_number(z)}) = {format_number(output)}",
        (z, output),
        xytext=(-9 if label_left else 9, -15),
        textcoords="offset points",
        color=ORANGE,
        ha="right" if label_left else "left",
    )
    axes.set(xlim=(-reach, reach), ylim=(-1.2, top), xlabel="sum with bias")


if __name__ == "__main__":
    neuron.fn()
