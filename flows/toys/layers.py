"""Networks are nested functions.

Slides "Was ist ein Neuronales Netz?" and "Wieso brauchen wir Activation Functions ?".

f_N = f(W1·f(W0·x)) has two layers, and so on to five, with and without biases. Without activations the layers
collapse into one, Ŵ = W2·W1·W0, and its boundary is a line, however many there are; with ReLU they do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.colors import to_rgba
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys.base import NonNegativeFloat, PositiveFloat, PositiveInt, Table, publish, toy_flow, toy_task
from flows.toys.style import BLUE, INK, ORANGE, STYLE, Values, create_figure, render_svg
from models.toys import training_cycle as cycle_math
from models.toys.layers import (
    DATASETS,
    Activation,
    accuracy,
    collapse_linear_layers,
    forward,
    init_weights,
    make_mlp,
)
from models.toys.training_cycle import TrainConfig
from tasks.params.types import Seed

Depths = Annotated[Sequence[Annotated[int, Field(ge=1, le=50)]], Field(min_length=1, max_length=20)]
Points = tuple[Tensor, Tensor]

INPUTS, WIDTH, OUTPUTS = 3, 4, 2
ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "ReLU": nn.ReLU}


@dataclass(frozen=True)
class CollapseResult:
    """Largest differences, over some inputs, between the network and the one layer Ŵ·x + b̂."""

    depth: int
    with_biases: bool
    linear: float
    relu: float


@toy_task
def compare_with_single_layer(depth: int, with_biases: bool, seed: int) -> CollapseResult:
    generator = Generator().manual_seed(seed)
    weights, biases = init_weights([INPUTS, *[WIDTH] * (depth - 1), OUTPUTS], generator)
    x = torch.randn(100, INPUTS, dtype=torch.float64, generator=generator)
    product, shift = collapse_linear_layers(weights, biases if with_biases else None)
    single = x @ product.T + shift

    def max_abs_diff(activation: Activation | None) -> float:
        output = forward(weights, biases if with_biases else None, activation, x)
        return (output - single).abs().max().item()

    return CollapseResult(depth, with_biases, linear=max_abs_diff(None), relu=max_abs_diff(torch.relu))


@toy_task
def make_data(shape: str, noise: float, seed: int) -> tuple[Points, Points]:
    """200 training points and 1,000 test points."""
    generator = Generator().manual_seed(seed)
    return DATASETS[shape](200, noise, generator), DATASETS[shape](1000, noise, generator)


@toy_task
def train(activation: str, points: Points, config: TrainConfig) -> nn.Sequential:
    """Three layers, with 16 neurons in each of the two hidden ones."""
    net = make_mlp([2, 16, 16, 1], ACTIVATIONS[activation], config.seed)
    cycle_math.train(net, F.binary_cross_entropy_with_logits, points, config)
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
        depths: numbers of layers to compare with the single layer Ŵ
        shape: the dataset, two moons or a ring in a ring
        noise: standard deviation of the points' noise
        epochs: of the training
        learning_rate: of the training
        seed: of weights, points and batches
    """
    collapses = [
        compare_with_single_layer(depth, with_biases, seed)
        for with_biases in (False, True)
        for depth in depths
    ]
    train_points, test_points = make_data(shape, noise, seed)
    config = TrainConfig(learning_rate, epochs, batch_size=20, seed=seed)
    nets = {name: train(name, train_points, config) for name in ACTIVATIONS}
    accuracies = {name: test_accuracy(net, test_points) for name, net in nets.items()}

    table = Table(
        ["layers", "biases", "linear: |f_N - Ŵ·x|", "ReLU: |f_N - Ŵ·x|"],
        [
            (str(c.depth), "yes" if c.with_biases else "no", f"{c.linear:.1e}", f"{c.relu:.3f}")
            for c in collapses
        ],
    )
    results = Table(["activation", f"accuracy on {shape}"], [(k, f"{v:.1%}") for k, v in accuracies.items()])
    takeaways = [
        "Without activations any number of layers is the one layer Ŵ, up to rounding; with ReLU it is not.",
        "So the linear network's boundary is a line, the ReLU network's need not be.",
    ]
    publish("layers", [table, results], takeaways, plot(test_points, nets, accuracies))
    return accuracies


@rc_context(STYLE)
def plot(points: Points, nets: dict[str, nn.Sequential], accuracies: dict[str, float]) -> str:
    """SVG: each network's decision boundary, with some of the points."""
    low, high = points[0].min(0).values - 0.25, points[0].max(0).values + 0.25
    x_range, y_range = ((float(low[axis]), float(high[axis])) for axis in (0, 1))
    coordinates, classes = points[0][:300].numpy(), points[1][:300].numpy()
    titles = {"none": "linear layers", "ReLU": "with ReLU"}
    figure, axes = create_figure(2.75, columns=(1,) * len(nets))
    for panel, (name, net) in zip(axes, nets.items(), strict=True):
        logits = _logits_on_grid(net, x_range, y_range)
        x, y = np.linspace(*x_range, logits.shape[1]), np.linspace(*y_range, logits.shape[0])
        sides = [to_rgba(ORANGE, 0.16), to_rgba(BLUE, 0.16)]
        panel.contourf(x, y, logits > 0, levels=[-0.5, 0.5, 1.5], colors=sides)
        panel.contour(x, y, logits, levels=[0], colors=INK, linewidths=2)
        for value, color, marker in ((0, ORANGE, "s"), (1, BLUE, "o")):
            of_class = coordinates[classes == value]
            panel.plot(of_class[:, 0], of_class[:, 1], marker, color=color, markersize=3.2, markeredgewidth=0)
        panel.set_title(f"{titles[name]}: {accuracies[name]:.0%} right", fontsize=10)
        panel.set(xlim=x_range, ylim=y_range, aspect="equal", xticks=[], yticks=[])
        panel.grid(visible=False)
    return render_svg(figure)


def _logits_on_grid(net: nn.Sequential, x_range: tuple[float, float], y_range: tuple[float, float]) -> Values:
    """`(81, 81)`, a row per y."""
    x, y = (torch.linspace(*limits, 81, dtype=torch.float64) for limits in (x_range, y_range))
    with torch.no_grad():
        logits: Values = net(torch.cartesian_prod(y, x).flip(1)).view(81, 81).numpy()
    return logits


if __name__ == "__main__":
    layers.fn()
