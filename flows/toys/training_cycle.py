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
from flows.toys.base import Count, NotNegative, Positive, Table, publish, step, toy
from models.toys.training_cycle import Curve, Event, Recipe, noisy_sine, observed_turn, outputs, trained
from tasks.params import Seed

Points = tuple[Tensor, Tensor]
GRID = torch.linspace(-1, 1, 101).tolist()


@step
def data(points: int, noise: float, seed: int) -> Points:
    """Input (x), Target (y)"""
    return noisy_sine(points, noise, Generator().manual_seed(seed))


@step
def network(hidden: int, seed: int) -> Curve:
    """Neuronales Netzwerk"""
    return Curve(hidden, seed)


@step
def first_turn(hidden: int, learning_rate: float, points: Points, seed: int) -> list[Event]:
    """Forward Pass, Loss Function, Backward Pass, Update, of a network that is then forgotten."""
    return observed_turn(Curve(hidden, seed), learning_rate, *points)


@step
def repeat(net: Curve, points: Points, recipe: Recipe) -> list[float]:
    """Trains `net`; the loss of each epoch."""
    return trained(net, F.mse_loss, points, recipe)


@toy
def training_cycle(
    points: Annotated[int, Field(ge=2, le=1000)] = 40,
    noise: NotNegative = 0.1,
    hidden: Annotated[int, Field(ge=1, le=1000)] = 16,
    learning_rate: Positive = 0.02,
    epochs: Count = 200,
    batch_size: Count = 10,
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
    x, y = data(points, noise, seed)
    turn = first_turn(hidden, learning_rate, (x, y), seed)
    net = network(hidden, seed)
    before = outputs(net, GRID)
    losses = repeat(net, (x, y), Recipe(learning_rate, epochs, batch_size, seed))
    after = outputs(net, GRID)

    steps = Table(["step of the first turn", "what", "value"], [(e.step, e.what, e.value) for e in turn])
    shown = sorted({1, 2, 5, 10, 20, 50, 100, 200, 500, epochs} & set(range(1, epochs + 1)))
    falling = Table(["epoch", "loss J(θ)"], [(epoch, losses[epoch - 1]) for epoch in shown])
    turns = epochs * -(-points // batch_size)
    says = [f"The loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {turns} turns of the cycle."]
    picture = figures.training_cycle(
        losses, (x.flatten().tolist(), y.flatten().tolist()), GRID, before, after
    )
    publish("training_cycle", [steps, falling], says, picture)
    return losses


if __name__ == "__main__":
    training_cycle.fn()
