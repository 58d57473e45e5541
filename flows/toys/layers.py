"""Networks are nested functions.

Slides "Was ist ein Neuronales Netz?" and "Wieso brauchen wir Activation Functions ?".

f_N = f(W1·f(W0·x)) has two layers, and so on to five, with and without biases. Without activations the layers
collapse into one, Ŵ = W2·W1·W0, and its boundary is a line, however many there are; with ReLU they do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys import figures
from flows.toys.base import NonNegativeFloat, PositiveFloat, PositiveInt, Table, publish, toy_flow, toy_task
from models.toys import training_cycle
from models.toys.layers import (
    DATASETS,
    accuracy,
    collapse_linear_layers,
    forward,
    init_weights,
    make_mlp,
)
from models.toys.training_cycle import TrainConfig
from tasks.params import Seed

Depths = Annotated[Sequence[Annotated[int, Field(ge=1, le=50)]], Field(min_length=1, max_length=20)]
Points = tuple[Tensor, Tensor]

INPUTS, WIDTH, OUTPUTS = 3, 4, 2
ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "ReLU": nn.ReLU}


@dataclass(frozen=True)
class CollapseResult:
    """Largest differences, over some inputs, between the network and the one layer Ŵ·x + b̂."""

    depth: int
    biases: bool
    linear: float
    relu: float


@toy_task
def compare_with_single_layer(depth: int, biases: bool, seed: int) -> CollapseResult:
    generator = Generator().manual_seed(seed)
    weights, drawn_biases = init_weights([INPUTS, *[WIDTH] * (depth - 1), OUTPUTS], generator)
    x = torch.randn(100, INPUTS, dtype=torch.float64, generator=generator)
    product, shift = collapse_linear_layers(weights, drawn_biases if biases else None)
    single = x @ product.T + shift

    def max_abs_diff(activation: object) -> float:
        output = forward(weights, drawn_biases if biases else None, activation, x)  # type: ignore[arg-type]
        return (output - single).abs().max().item()

    return CollapseResult(depth, biases, linear=max_abs_diff(None), relu=max_abs_diff(torch.relu))


@toy_task
def make_data(shape: str, noise: float, seed: int) -> tuple[Points, Points]:
    """200 points to train on, and 1,000 more to measure by."""
    generator = Generator().manual_seed(seed)
    return DATASETS[shape](200, noise, generator), DATASETS[shape](1000, noise, generator)


@toy_task
def train(activation: str, points: Points, recipe: TrainConfig) -> nn.Sequential:
    """Three layers with 16 neurons between them, or with 16 linear ones."""
    net = make_mlp([2, 16, 16, 1], ACTIVATIONS[activation], recipe.seed)
    training_cycle.train(net, F.binary_cross_entropy_with_logits, points, recipe)
    return net


@toy_task
def test_accuracy(net: nn.Sequential, points: Points) -> float:
    return accuracy(net, *points)


@toy_flow
def layers(
    depths: Depths = (2, 3, 4, 5),
    shape: Literal["moons", "rings"] = "moons",
    noise: NonNegativeFloat = 0.12,
    epochs: PositiveInt = 40,
    learning_rate: PositiveFloat = 0.01,
    seed: Seed = 0,
) -> dict[str, float]:
    """f(W1·f(W0·x)) and deeper; the accuracy of linear layers and of ReLU on what no line separates.

    Args:
        depths: numbers of layers to hold against the single one Ŵ
        shape: the data set, two moons or a ring in a ring
        noise: how far its points stray
        epochs: of the training
        learning_rate: of the training
        seed: of weights, points and batches
    """
    collapses = [
        compare_with_single_layer(depth, biases, seed) for biases in (False, True) for depth in depths
    ]
    train_points, test_points = make_data(shape, noise, seed)
    recipe = TrainConfig(learning_rate, epochs, batch_size=20, seed=seed)
    nets = {name: train(name, train_points, recipe) for name in ACTIVATIONS}
    accuracies = {name: test_accuracy(net, test_points) for name, net in nets.items()}

    table = Table(
        ["layers", "biases", "linear: |f_N - Ŵ·x|", "ReLU: |f_N - Ŵ·x|"],
        [(str(c.depth), "yes" if c.biases else "no", f"{c.linear:.1e}", f"{c.relu:.3f}") for c in collapses],
    )
    results = Table(["activation", f"accuracy on {shape}"], [(k, f"{v:.1%}") for k, v in accuracies.items()])
    says = [
        "Without activations any number of layers is the one layer Ŵ, up to rounding; with ReLU it is not.",
        "So the linear network's boundary is a line, the ReLU network's need not be.",
    ]
    publish("layers", [table, results], says, _figure(test_points, nets, accuracies))
    return accuracies


def _figure(points: Points, nets: dict[str, nn.Sequential], accuracies: dict[str, float]) -> str:
    low, high = points[0].min(0).values - 0.25, points[0].max(0).values + 0.25
    x = torch.linspace(float(low[0]), float(high[0]), 81, dtype=torch.float64)
    y = torch.linspace(float(low[1]), float(high[1]), 81, dtype=torch.float64)
    grid = torch.cartesian_prod(y, x).flip(1)
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    titles = {"none": "linear layers", "ReLU": "with ReLU"}
    with torch.no_grad():
        panels = [
            (f"{titles[name]}: {accuracies[name]:.0%} right", net(grid).view(81, 81).numpy())
            for name, net in nets.items()
        ]
    return figures.layers(points[0][:300].numpy(), points[1][:300].numpy(), extent, panels)


if __name__ == "__main__":
    layers.fn()
