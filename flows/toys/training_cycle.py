"""The training cycle (slides "Neuronales Netzwerk Training Cycle" and the code demo's loop).

Forward pass, loss, backward pass and update are repeated again and again. Each step is `training_step` of
`models/step.py`, the one that trains the pipeline's network. Hooks trace the first step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torch.optim import SGD, Adam, Optimizer

from flows.run.tables import Table
from flows.toys.base import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    create_figure,
    present,
    toy_flow,
    toy_task,
)
from models.step import training_step
from tasks.params.types import Seed
from tasks.reporting.svg import BLUE, INK, ORANGE, STYLE, render_svg

Points = tuple[Tensor, Tensor]
GRID = torch.linspace(-1, 1, 101).tolist()


@dataclass(frozen=True)
class TraceEvent:
    """One part of a training step, recorded when it ran."""

    step: str
    """the talk's name for the part"""
    what: str
    """what `value` is"""
    value: float


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of `train`."""

    learning_rate: float
    epochs: int
    batch_size: int
    seed: int
    """the seed of the order of the points"""


class TinyMLP(nn.Module):
    """A network in float64 with one input, one output and a hidden layer with tanh: `(N, 1)` to `(N, 1)`."""

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Linear(1, hidden, dtype=torch.float64)
            self.output = nn.Linear(hidden, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.tanh(self.hidden(x)))  # type: ignore[no-any-return]


@toy_task
def make_data(count: int, noise: float, seed: int) -> Points:
    """Make the slide's Input and Target, a period of a sine with noise.

    The result is x `(count, 1)` from -1 to 1 and y `(count, 1)`, both float64.
    """
    generator = Generator().manual_seed(seed)
    x = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    return x, torch.sin(torch.pi * x) + noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)


@toy_task
def make_network(hidden: int, seed: int) -> TinyMLP:
    """Make the slide's Neuronales Netzwerk."""
    return TinyMLP(hidden, seed)


@toy_task
def trace_step(net: TinyMLP, learning_rate: float, points: Points) -> list[TraceEvent]:
    """Run one step of plain gradient descent on `net`, and list its events in the order they happened.

    The step is `training_step`, the pipeline's own; its arguments and hooks record the events.
    """
    x, y = points
    events: list[TraceEvent] = []
    traced_bias = net.output.bias
    optimizer = SGD(net.parameters(), lr=learning_rate)

    def forward(inputs: Tensor) -> Tensor:
        predictions = net(inputs)
        events.append(TraceEvent("Forward Pass", "prediction ŷ of the first point", predictions[0].item()))
        return predictions  # type: ignore[no-any-return]

    def loss(predictions: Tensor, targets: Tensor) -> Tensor:
        value = F.mse_loss(predictions, targets)
        events.append(TraceEvent("Loss Function", "J(θ)", value.item()))
        return value

    def after_backward(parameter: Tensor) -> None:
        assert parameter.grad is not None
        events.append(TraceEvent("Backward Pass", "∂J/∂b of the output", parameter.grad.item()))

    def after_update(*_: object) -> None:
        what = f"b ← b - α·∂J/∂b with α = {learning_rate:g}"
        events.append(TraceEvent("Update", what, traced_bias.item()))

    handles = [
        traced_bias.register_post_accumulate_grad_hook(after_backward),  # type: ignore[no-untyped-call]
        optimizer.register_step_post_hook(after_update),
    ]
    events.append(TraceEvent("Input, Target", "x of the first point", x[0].item()))
    events.append(TraceEvent("Input, Target", "y of the first point", y[0].item()))
    events.append(TraceEvent("Input, Target", "b of the output", traced_bias.item()))
    try:
        training_step(forward, loss, optimizer, x, y)
    finally:
        for handle in handles:
            handle.remove()
    return events


@toy_task
def train(
    net: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    points: Points,
    config: TrainConfig,
) -> list[float]:
    """Train with Adam as the pipeline does: a new order each epoch, and `training_step` on each batch.

    The result is the mean loss of each epoch. The loss has to stay finite.
    """
    inputs, targets = points
    generator = Generator().manual_seed(config.seed)
    optimizer: Optimizer = Adam(net.parameters(), lr=config.learning_rate)
    losses: list[float] = []
    for epoch in range(1, config.epochs + 1):
        loss_sum = 0.0
        order = torch.randperm(len(inputs), generator=generator)
        for indices in torch.split(order, config.batch_size):
            _, loss = training_step(net, loss_function, optimizer, inputs[indices], targets[indices])
            loss_sum += loss.item() * len(indices)
        losses.append(loss_sum / len(inputs))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the loss is {losses[-1]} in epoch {epoch}; a smaller learning rate may help")
    return losses


def predict(net: nn.Module, x: Sequence[float]) -> list[float]:
    """Compute the network's output for each x."""
    with torch.no_grad():
        return net(torch.tensor(x, dtype=torch.float64)[:, None]).flatten().tolist()  # type: ignore[no-any-return]


@toy_flow
def training_cycle(
    points: Annotated[int, Field(ge=2, le=1000)] = 40,
    noise: NonNegativeFloat = 0.1,
    hidden: Annotated[int, Field(ge=1, le=1000)] = 16,
    learning_rate: PositiveFloat = 0.02,
    epochs: PositiveInt = 200,
    batch_size: PositiveInt = 10,
    seed: Seed = 0,
) -> list[float]:
    """A small network learns a sine with the step that trains the pipeline's network.

    Args:
        points: the number of points in the dataset
        noise: the standard deviation of the targets' noise
        hidden: the number of neurons in the hidden layer
        learning_rate: the learning rate α
        epochs: the number of passes through the data
        batch_size: the number of points per step
        seed: the seed of data, weights and batches
    """
    x, y = make_data(points, noise, seed)
    trace = trace_step(make_network(hidden, seed), learning_rate, (x, y))
    net = make_network(hidden, seed)
    before = predict(net, GRID)
    losses = train(net, F.mse_loss, (x, y), TrainConfig(learning_rate, epochs, batch_size, seed))
    after = predict(net, GRID)

    first_step = Table(["first step", "what", "value"], [(e.step, e.what, e.value) for e in trace])
    epochs_shown = sorted({1, 2, 5, 10, 20, 50, 100, 200, 500, epochs} & set(range(1, epochs + 1)))
    history = Table(["epoch", "loss J(θ)"], [(epoch, losses[epoch - 1]) for epoch in epochs_shown])
    num_steps = epochs * -(-points // batch_size)
    start = next(event.value for event in trace if event.step == "Loss Function")
    takeaways = [f"The loss went from {start:.4g} before training to {losses[-1]:.4g} in {num_steps} steps."]
    if losses[-1] > start:
        takeaways.append(f"Training made it worse: the learning rate α = {learning_rate:g} is too large.")
    elif max(losses) > start:
        takeaways.append(
            f"In between it was {max(losses):.4g}: the learning rate α = {learning_rate:g} is large."
        )
    svg = plot(losses, (x.flatten().tolist(), y.flatten().tolist()), before, after)
    present("training_cycle", [first_step, history], takeaways, svg)
    return losses


@rc_context(STYLE)
def plot(
    losses: Sequence[float],
    points: tuple[Sequence[float], Sequence[float]],
    before: Sequence[float],
    after: Sequence[float],
) -> str:
    """Draw the loss by epoch, and the network's values over `GRID` before and after training on `points`."""
    figure, (loss_ax, network_ax) = create_figure(2.9, columns=(1, 1.2))
    loss_ax.plot(range(1, len(losses) + 1), losses, color=BLUE, linewidth=2)
    loss_ax.set_yscale("log")
    loss_ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss_ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    loss_ax.yaxis.set_minor_formatter(NullFormatter())
    loss_ax.set(xlabel="epoch", title="loss J(θ)")
    network_ax.plot(*points, "o", color=INK, markersize=4)
    network_ax.plot(GRID, before, color=ORANGE, linestyle="--", linewidth=2)
    network_ax.plot(GRID, after, color=BLUE, linewidth=2.2)
    network_ax.set(xlabel="x", title="network")
    network_ax.text(0.03, 0.94, "after", color=BLUE, va="top", transform=network_ax.transAxes)
    network_ax.text(0.03, 0.85, "before", color=ORANGE, va="top", transform=network_ax.transAxes)
    for panel in (loss_ax, network_ax):
        panel.title.set_fontsize(10)
    return render_svg(figure)


if __name__ == "__main__":
    training_cycle.fn()
