"""One turn of the training cycle, as the talk's code demo and the toy `training_cycle` show it."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer


def training_step(
    net: Callable[[Tensor], Tensor],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Forward pass, loss, backward pass, update of the parameters.

    Returns the predictions and the mean loss of the batch, both from before the update and detached.
    """
    optimizer.zero_grad()
    predictions = net(inputs)
    loss = loss_function(predictions, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return predictions.detach(), loss.detach()


def initialised(network: type[nn.Module], generator: Generator, images: Tensor | None = None) -> nn.Module:
    """The network with the weights that PyTorch's layers start from, drawn from `generator`.

    PyTorch's own constructors draw from the global generator; the values are the same as those after
    `torch.manual_seed(s)` where `generator` was seeded with `s`. Knows `Conv2d`, `Linear` and `BatchNorm2d`.
    A network with a method `initialise` then has it called, with `images`: normalised, of the training.
    """
    with torch.device("meta"):
        net = network()
    net.to_empty(device="cpu")
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in module.parameters():  # the weight, then the bias
                    parameter.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()  # ones and zeros: nothing to draw
            elif next(module.parameters(recurse=False), None) is not None:
                raise TypeError(f"no rule for the first weights of a {type(module).__name__}")
    initialise = getattr(net, "initialise", None)
    if initialise is not None:
        initialise(images)
    return net
