"""The training cycle (slides "Neuronales Netzwerk Training Cycle" and the code demo's loop).

Forward pass, loss, backward pass, update, again and again. A step is `training_step` of `models/step.py`, the
one that trains the pipeline's network; the first step is traced with hooks.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys.base import NonNegativeFloat, PositiveFloat, PositiveInt, Table, publish, toy_flow, toy_task
from flows.toys.style import BLUE, INK, ORANGE, STYLE, create_figure, render_svg
from models.toys import training_cycle as cycle_math
from models.toys.training_cycle import (
    TinyMLP,
    TraceEvent,
    TrainConfig,
    noisy_sine,
    predict,
    traced_step,
)
from tasks.params.types import Seed

Points = tuple[Tensor, Tensor]
GRID = torch.linspace(-1, 1, 101).tolist()


@toy_task
def make_data(points: int, noise: float, seed: int) -> Points:
    """Input (x), Target (y)"""
    return noisy_sine(points, noise, Generator().manual_seed(seed))


@toy_task
def make_network(hidden: int, seed: int) -> TinyMLP:
    """Neuronales Netzwerk"""
    return TinyMLP(hidden, seed)


@toy_task
def trace_first_step(hidden: int, learning_rate: float, points: Points, seed: int) -> list[TraceEvent]:
    """Forward Pass, Loss Function, Backward Pass, Update, on a network of its own."""
    return traced_step(TinyMLP(hidden, seed), learning_rate, *points)


@toy_task
def train(net: TinyMLP, points: Points, config: TrainConfig) -> list[float]:
    """Train `net`; the loss of each epoch."""
    return cycle_math.train(net, F.mse_loss, points, config)


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
        points: size of the dataset
        noise: standard deviation of the targets' noise
        hidden: neurons of the hidden layer
        learning_rate: α
        epochs: passes through the data
        batch_size: points per step
        seed: of data, weights and batches
    """
    x, y = make_data(points, noise, seed)
    trace = trace_first_step(hidden, learning_rate, (x, y), seed)
    net = make_network(hidden, seed)
    before = predict(net, GRID)
    losses = train(net, (x, y), TrainConfig(learning_rate, epochs, batch_size, seed))
    after = predict(net, GRID)

    first_step = Table(["first step", "what", "value"], [(e.step, e.what, e.value) for e in trace])
    epochs_shown = sorted({1, 2, 5, 10, 20, 50, 100, 200, 500, epochs} & set(range(1, epochs + 1)))
    history = Table(["epoch", "loss J(θ)"], [(epoch, losses[epoch - 1]) for epoch in epochs_shown])
    num_steps = epochs * -(-points // batch_size)
    takeaways = [f"The loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {num_steps} steps."]
    svg = plot(losses, (x.flatten().tolist(), y.flatten().tolist()), before, after)
    publish("training_cycle", [first_step, history], takeaways, svg)
    return losses


@rc_context(STYLE)
def plot(
    losses: Sequence[float],
    points: tuple[Sequence[float], Sequence[float]],
    before: Sequence[float],
    after: Sequence[float],
) -> str:
    """SVG: the loss by epoch, and the network's values over `GRID` before and after training on `points`."""
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
