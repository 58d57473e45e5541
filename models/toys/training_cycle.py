"""The training cycle, each of its parts traced (slide "Neuronales Netzwerk Training Cycle")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torch.optim import SGD, Adam, Optimizer

from models.step import training_step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class TraceEvent:
    """One part of a training step, recorded when it ran."""

    step: str
    """the talk's name for it"""
    what: str
    """what `value` is"""
    value: float


class TinyMLP(nn.Module):
    """One input, one output, a hidden layer with tanh; float64. `(N, 1)` to `(N, 1)`."""

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Linear(1, hidden, dtype=torch.float64)
            self.output = nn.Linear(hidden, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.tanh(self.hidden(x)))  # type: ignore[no-any-return]


def noisy_sine(count: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """A period of a sine with noise: x `(count, 1)` from -1 to 1, and y `(count, 1)`, float64."""
    x = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    return x, torch.sin(torch.pi * x) + noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)


def traced_step(net: TinyMLP, learning_rate: float, x: Tensor, y: Tensor) -> list[TraceEvent]:
    """Run one step of plain gradient descent on `net`; its events in the order in which they happened.

    The step is `training_step`, the pipeline's own; its arguments and hooks record the events.
    """
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
        events.append(TraceEvent("Update", "b ← b - α·∂J/∂b", traced_bias.item()))

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


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of `train`."""

    learning_rate: float
    epochs: int
    batch_size: int
    seed: int
    """of the order of the points"""


def train(
    net: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    config: TrainConfig,
) -> list[float]:
    """Train with Adam as the pipeline does: a new order each epoch, `training_step` on each batch.

    Returns the mean loss of each epoch. `ValueError` where it is no longer a finite number.
    """
    inputs, targets = data
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
    """The network's output for each x."""
    with torch.no_grad():
        return net(torch.tensor(x, dtype=torch.float64)[:, None]).flatten().tolist()  # type: ignore[no-any-return]
