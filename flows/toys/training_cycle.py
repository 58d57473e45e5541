"""The training cycle (slides "Neuronales Netzwerk Training Cycle" and the code demo's loop).

Forward pass, loss, backward pass, update, again and again. The turn is `training_step` of
`models/init.py`, the very one that `tasks/train.py` trains the pipeline's network with; the first turn is
watched step by step.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys import figures
from flows.toys.base import NonNegativeFloat, PositiveFloat, PositiveInt, Table, publish, toy_flow, toy_task
from models.toys import training_cycle as maths
from models.toys.training_cycle import (
    TinyMLP,
    TraceEvent,
    TrainConfig,
    noisy_sine,
    predict,
    traced_step,
)
from tasks.params import Seed

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
    """Forward Pass, Loss Function, Backward Pass, Update, of a network that is then forgotten."""
    return traced_step(TinyMLP(hidden, seed), learning_rate, *points)


@toy_task
def train(net: TinyMLP, points: Points, recipe: TrainConfig) -> list[float]:
    """Trains `net`; the loss of each epoch."""
    return maths.train(net, F.mse_loss, points, recipe)


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
    """A small network learns a sine by the loop that trains the pipeline's.

    Args:
        points: size of the data set
        noise: of its targets
        hidden: neurons of the hidden layer
        learning_rate: α
        epochs: passes through the data
        batch_size: points a turn
        seed: of data, weights and batches
    """
    x, y = make_data(points, noise, seed)
    trace = trace_first_step(hidden, learning_rate, (x, y), seed)
    net = make_network(hidden, seed)
    before = predict(net, GRID)
    losses = train(net, (x, y), TrainConfig(learning_rate, epochs, batch_size, seed))
    after = predict(net, GRID)

    steps = Table(["step of the first turn", "what", "value"], [(e.step, e.what, e.value) for e in trace])
    shown = sorted({1, 2, 5, 10, 20, 50, 100, 200, 500, epochs} & set(range(1, epochs + 1)))
    falling = Table(["epoch", "loss J(θ)"], [(epoch, losses[epoch - 1]) for epoch in shown])
    num_steps = epochs * -(-points // batch_size)
    says = [f"The loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {num_steps} turns of the cycle."]
    picture = figures.training_cycle(
        losses, (x.flatten().tolist(), y.flatten().tolist()), GRID, before, after
    )
    publish("training_cycle", [steps, falling], says, picture)
    return losses


if __name__ == "__main__":
    training_cycle.fn()
