"""A layer is neurons side by side, networks are nested functions, and without activations they collapse.

Slides "Was ist ein Neuronales Netz?" and "Wieso brauchen wir Activation Functions ?".

Three neurons that take the same inputs are a layer. Written one below the other, their weights are a matrix W
and their biases a vector b: f(W·x + b) computes all of them at once.

f_N = f(W1·f(W0·x)) has two layers, and so on to five, with and without biases. Without activations the layers
collapse into one, Ŵ = W2·W1·W0, and its boundary is a line, however many there are; with ReLU they do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.colors import to_rgba
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.run.tables import Table
from flows.toys.base import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Values,
    create_figure,
    present,
    toy_flow,
    toy_task,
)
from flows.toys.neuron import activate, add_bias, add_up, multiply
from flows.toys.training_cycle import Points, TrainConfig, train
from tasks.params.types import Seed
from tasks.reporting.svg import BLUE, INK, ORANGE, STYLE, render_svg

Depths = Annotated[Sequence[Annotated[int, Field(ge=1, le=50)]], Field(min_length=1, max_length=20)]
Activation = Callable[[Tensor], Tensor]

INPUTS, HIDDEN, OUTPUTS = 3, 4, 2
# The first neuron is that of the toy `neuron`, with its inputs.
LAYER_INPUTS = (1.0, 2.0, 3.0)
LAYER_WEIGHTS = torch.tensor([[0.8, -0.4, 0.2], [-0.5, 0.1, 0.3], [0.2, 0.9, -0.9]], dtype=torch.float64)
LAYER_BIASES = torch.tensor([0.5, 0.1, 0.2], dtype=torch.float64)
MODULES: dict[str, type[nn.Module]] = {"none": nn.Identity, "ReLU": nn.ReLU}


@dataclass(frozen=True)
class CollapseResult:
    """The largest differences, over some inputs, between a network and the one layer Ŵ·x + b̂."""

    depth: int
    with_biases: bool
    linear: float
    relu: float


@toy_task
def compute_side_by_side(x: Sequence[float], weights: Tensor, biases: Tensor) -> list[float]:
    """Compute one neuron after the other, as the toy `neuron` does: multiply, sum, add the bias, activate."""
    return [
        activate(add_bias(add_up(multiply(x, row)), bias), "relu")
        for row, bias in zip(weights.tolist(), biases.tolist(), strict=True)
    ]


@toy_task
def compute_as_matrix(x: Sequence[float], weights: Tensor, biases: Tensor) -> list[float]:
    """Compute all neurons at once: `f(W·x + b)`, with the weights `(neurons, inputs)` as a matrix."""
    values: list[float] = torch.relu(weights @ torch.tensor(x, dtype=torch.float64) + biases).tolist()
    return values


def init_weights(widths: Sequence[int], generator: Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Draw weights `(widths[i+1], widths[i])` and biases `(widths[i+1],)` of each layer, normal, float64.

    Weights are scaled by 1/√fan_in, so that values keep their scale from layer to layer. There must be at
    least two widths, each at least 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"a network needs at least two widths, each at least 1, not {list(widths)}")
    weights = [_normal((out, fan_in), generator) / fan_in**0.5 for fan_in, out in pairwise(widths)]
    return weights, [_normal((out,), generator) for out in widths[1:]]


def forward(
    weights: Sequence[Tensor], biases: Sequence[Tensor] | None, activation: Activation | None, x: Tensor
) -> Tensor:
    """Compute `f(W2·f(W1·f(W0·x + b0) + b1) + b2)` for any number of layers; without `activation`, f(z) = z.

    `x` is `(N, inputs)`, and the result `(N, outputs)`. There must be as many biases as weights, or none.
    """
    if biases is not None and len(biases) != len(weights):
        raise ValueError(f"{len(weights)} layers need as many biases, not {len(biases)}")
    for layer, weight in enumerate(weights):
        x = x @ weight.T
        if biases is not None:
            x = x + biases[layer]
        if activation is not None:
            x = activation(x)
    return x


def collapse_linear_layers(
    weights: Sequence[Tensor], biases: Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the one layer that equals linear layers: `Ŵ = W2·W1·W0`, and their biases as one bias b̂.

    With biases, `W1·(W0·x + b0) + b1 = (W1·W0)·x + (W1·b0 + b1)`, and so on.
    """
    product, bias = weights[0], torch.zeros_like(weights[0][:, 0]) if biases is None else biases[0]
    for layer, weight in enumerate(weights[1:], start=1):
        product, bias = weight @ product, weight @ bias
        if biases is not None:
            bias = bias + biases[layer]
    return product, bias


@toy_task
def compare_with_single_layer(depth: int, with_biases: bool, seed: int) -> CollapseResult:
    generator = Generator().manual_seed(seed)
    weights, biases = init_weights([INPUTS, *[HIDDEN] * (depth - 1), OUTPUTS], generator)
    x = torch.randn(100, INPUTS, dtype=torch.float64, generator=generator)
    product, shift = collapse_linear_layers(weights, biases if with_biases else None)
    single = x @ product.T + shift

    def max_abs_diff(activation: Activation | None) -> float:
        output = forward(weights, biases if with_biases else None, activation, x)
        return (output - single).abs().max().item()

    return CollapseResult(depth, with_biases, linear=max_abs_diff(None), relu=max_abs_diff(torch.relu))


def make_moons(count: int, noise: float, generator: Generator) -> Points:
    """Draw two half circles that reach into each other: points `(count, 2)`, classes `(count,)`, float64."""
    angles = torch.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    classes = torch.arange(count) % 2
    upper = torch.stack([angles.cos(), angles.sin()], 1)
    lower = torch.stack([1 - angles.cos(), 0.5 - angles.sin()], 1)
    points = torch.where(classes[:, None] == 0, upper, lower)
    return points + noise * _normal(points.shape, generator), classes.double()


def make_circles(count: int, noise: float, generator: Generator) -> Points:
    """Draw a ring, class 1, inside another: points `(count, 2)` and classes `(count,)`, float64."""
    angles = 2 * torch.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    classes = torch.arange(count) % 2
    points = torch.stack([angles.cos(), angles.sin()], 1) * (1.2 - 0.8 * classes[:, None])
    return points + noise * _normal(points.shape, generator), classes.double()


DATASETS = {"moons": make_moons, "rings": make_circles}


@toy_task
def make_data(shape: str, noise: float, seed: int) -> tuple[Points, Points]:
    """Draw 200 training points and 1,000 test points."""
    generator = Generator().manual_seed(seed)
    return DATASETS[shape](200, noise, generator), DATASETS[shape](1000, noise, generator)


@toy_task
def make_network(activation: str, seed: int) -> nn.Sequential:
    """Make three layers, with 16 neurons in each of the two hidden ones, and one logit `(N,)` at the end.

    The weights are PyTorch's default initialization after `torch.manual_seed(seed)`; the global generator's
    state is restored.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules: list[nn.Module] = []
        for fan_in, out in pairwise([2, 16, 16, 1]):
            modules += [nn.Linear(fan_in, out, dtype=torch.float64), MODULES[activation]()]
    return nn.Sequential(*modules[:-1], nn.Flatten(0))


@toy_task
def measure_accuracy(net: nn.Module, points: Points) -> float:
    """Measure the share of the points on the right side of the boundary, where the logit is 0."""
    with torch.no_grad():
        logits: Tensor = net(points[0])
    return ((logits > 0) == (points[1] > 0)).double().mean().item()


def _normal(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@toy_flow
def layers(
    depths: Depths = (2, 3, 4, 5),
    shape: Literal["moons", "rings"] = "moons",
    noise: NonNegativeFloat = 0.12,
    epochs: PositiveInt = 40,
    learning_rate: PositiveFloat = 0.01,
    seed: Seed = 0,
) -> dict[str, float]:
    """Compare f(W1·f(W0·x)) and deeper networks with one layer, and train some on what no line separates.

    Args:
        depths: the numbers of layers to compare with the single layer Ŵ
        shape: the dataset, two moons or a ring in a ring
        noise: the standard deviation of the points' noise
        epochs: the number of epochs of the training
        learning_rate: the learning rate of the training
        seed: the seed of weights, points and batches
    """
    side_by_side = compute_side_by_side(LAYER_INPUTS, LAYER_WEIGHTS, LAYER_BIASES)
    as_matrix = compute_as_matrix(LAYER_INPUTS, LAYER_WEIGHTS, LAYER_BIASES)
    collapses = [
        compare_with_single_layer(depth, with_biases, seed)
        for with_biases in (False, True)
        for depth in depths
    ]
    train_points, test_points = make_data(shape, noise, seed)
    config = TrainConfig(learning_rate, epochs, batch_size=20, seed=seed)
    nets = {name: make_network(name, seed) for name in MODULES}
    for net in nets.values():
        train(net, F.binary_cross_entropy_with_logits, train_points, config)
    accuracies = {name: measure_accuracy(net, test_points) for name, net in nets.items()}

    neurons = Table(
        ["row of W", *(f"w for x = {x:g}" for x in LAYER_INPUTS), "b", "the neuron", "in f(W·x + b)"],
        [
            (f"neuron {number}", *row, bias, *outputs)
            for number, (row, bias, *outputs) in enumerate(
                zip(LAYER_WEIGHTS.tolist(), LAYER_BIASES.tolist(), side_by_side, as_matrix, strict=True), 1
            )
        ],
    )
    table = Table(
        ["layers", "one layer", "linear: largest difference", "ReLU: largest difference"],
        [
            (str(c.depth), "Ŵ·x + b̂" if c.with_biases else "Ŵ·x", f"{c.linear:.1e}", f"{c.relu:.3f}")
            for c in collapses
        ],
    )
    results = Table(["activation", f"accuracy on {shape}"], [(k, f"{v:.1%}") for k, v in accuracies.items()])
    takeaways = [
        "A layer is neurons side by side: a row of W is one neuron's weights, and W·x + b computes them all.",
        "Without activations any number of layers is the one layer Ŵ, up to rounding; with ReLU it is not.",
        "So the linear network's boundary is a line, the ReLU network's need not be.",
    ]
    present("layers", [neurons, table, results], takeaways, plot(test_points, nets, accuracies))
    return accuracies


@rc_context(STYLE)
def plot(points: Points, nets: dict[str, nn.Sequential], accuracies: dict[str, float]) -> str:
    """Draw each network's decision boundary, with some of the points."""
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
        panel.set_title(f"{titles[name]}: {accuracies[name]:.1%} right", fontsize=10)
        panel.set(xlim=x_range, ylim=y_range, aspect="equal", xticks=[], yticks=[])
        panel.grid(visible=False)
    return render_svg(figure)


def _logits_on_grid(net: nn.Sequential, x_range: tuple[float, float], y_range: tuple[float, float]) -> Values:
    """Compute the logits `(81, 81)` over the figure, with a row per y."""
    x, y = (torch.linspace(*limits, 81, dtype=torch.float64) for limits in (x_range, y_range))
    with torch.no_grad():
        logits: Values = net(torch.cartesian_prod(y, x).flip(1)).view(81, 81).numpy()
    return logits


if __name__ == "__main__":
    layers.fn()
