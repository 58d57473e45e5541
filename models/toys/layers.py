"""Networks are nested functions, and why they need activations.

Slides "Was ist ein Neuronales Netz?" and "Wieso brauchen wir Activation Functions ?".
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

Activation = Callable[[Tensor], Tensor]


def init_weights(widths: Sequence[int], generator: Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Weights `(widths[i+1], widths[i])` and biases `(widths[i+1],)` of each layer, normal, float64.

    Weights are scaled by 1/√fan_in, so that values keep their scale from layer to layer. `ValueError` where
    there are fewer than two widths, or a width below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"a network needs at least two widths, each at least 1, not {list(widths)}")
    weights = [_normal((out, fan_in), generator) / fan_in**0.5 for fan_in, out in pairwise(widths)]
    return weights, [_normal((out,), generator) for out in widths[1:]]


def forward(
    weights: Sequence[Tensor], biases: Sequence[Tensor] | None, activation: Activation | None, x: Tensor
) -> Tensor:
    """`f(W2·f(W1·f(W0·x + b0) + b1) + b2)` for any number of layers; without `activation`, f(z) = z.

    `x` is `(N, inputs)`, the result `(N, outputs)`. `ValueError` where biases and weights differ in number.
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
    """One layer that computes what linear layers compute: `Ŵ = W2·W1·W0`, and their biases as one bias.

    With biases, `W1·(W0·x + b0) + b1 = (W1·W0)·x + (W1·b0 + b1)`, and so on.
    """
    product, bias = weights[0], torch.zeros_like(weights[0][:, 0]) if biases is None else biases[0]
    for layer, weight in enumerate(weights[1:], start=1):
        product, bias = weight @ product, weight @ bias
        if biases is not None:
            bias = bias + biases[layer]
    return product, bias


def make_mlp(widths: Sequence[int], activation: type[nn.Module], seed: int) -> nn.Sequential:
    """Dense layers in float64 with `activation` between them, one logit `(N,)` at the end.

    The weights are PyTorch's default initialization after `torch.manual_seed(seed)`; the global generator's
    state is restored.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules: list[nn.Module] = []
        for fan_in, out in pairwise(widths):
            modules += [nn.Linear(fan_in, out, dtype=torch.float64), activation()]
    return nn.Sequential(*modules[:-1], nn.Flatten(0))


def make_moons(count: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two half circles that reach into each other: points `(count, 2)` and classes `(count,)`, float64."""
    angles = torch.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    classes = torch.arange(count) % 2
    upper = torch.stack([angles.cos(), angles.sin()], 1)
    lower = torch.stack([1 - angles.cos(), 0.5 - angles.sin()], 1)
    points = torch.where(classes[:, None] == 0, upper, lower)
    return points + noise * _normal(points.shape, generator), classes.double()


def make_circles(count: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """A ring inside another: points `(count, 2)` and classes `(count,)`, float64; class 1 is inside."""
    angles = 2 * torch.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    classes = torch.arange(count) % 2
    points = torch.stack([angles.cos(), angles.sin()], 1) * (1.2 - 0.8 * classes[:, None])
    return points + noise * _normal(points.shape, generator), classes.double()


DATASETS = {"moons": make_moons, "rings": make_circles}


def accuracy(net: Callable[[Tensor], Tensor], points: Tensor, classes: Tensor) -> float:
    """The share of the points on the right side of the boundary, where the logit is 0."""
    with torch.no_grad():
        return ((net(points) > 0) == (classes > 0)).double().mean().item()


def _normal(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)
