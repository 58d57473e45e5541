"""One neuron (slides "Was macht ein Neuron?" and "Activation Functions").

    def neuron(x1, x2, x3):
        sum = w0 + x1*w1 + x2*w2 + x3*w3
        return sigmoid(sum)

Each line of the slide is a task: multiply every input by its weight, sum and add the bias, activate. That is
what `torch.nn.Linear` and an activation compute.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from flows.toys import figures
from flows.toys.base import BoundedFloat, Table, publish, toy_flow, toy_task
from models.toys import neuron as maths
from models.toys.neuron import ACTIVATIONS


@toy_task
def multiply(inputs: Sequence[float], weights: Sequence[float]) -> list[float]:
    return maths.multiply(inputs, weights)


@toy_task
def add_up(products: Sequence[float]) -> float:
    return sum(products)


@toy_task
def add_bias(total: float, bias: float) -> float:
    return total + bias


@toy_task
def activate(z: float, activation: str) -> float:
    return maths.activate(z, activation)


@toy_task
def with_torch_linear(
    inputs: Sequence[float], weights: Sequence[float], bias: float, activation: str
) -> float:
    """The same by `torch.nn.Linear`, in float64."""
    linear = torch.nn.Linear(len(inputs), 1, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([weights], dtype=torch.float64))
        linear.bias.fill_(bias)
        z = linear(torch.tensor(inputs, dtype=torch.float64))
        return float({"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}[activation](z))


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
    """f(w0 + x1·w1 + x2·w2 + x3·w3), step by step.

    Args:
        x1: first input
        x2: second input
        x3: third input
        w0: the bias
        w1: weight of the first input
        w2: weight of the second input
        w3: weight of the third input
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
            ["2. sum", " + ".join(f"({product:g})" for product in products), total],
            ["   and bias", f"{total:g} + ({w0:g})", z],
            [f"3. activate: {activation}", f"f({z:g})", output],
            ["torch.nn.Linear", "", torch_output],
        ],
    )
    others = ", ".join(f"{name} gives {activate(z, name):.4g}" for name in ACTIVATIONS)
    publish(
        "neuron",
        [steps],
        [f"Of the sum {z:g}, {others}.", f"PyTorch's neuron differs by {abs(output - torch_output):.1g}."],
        figures.neuron(inputs, weights, w0, z, activation),
    )
    return output


if __name__ == "__main__":
    neuron.fn()
