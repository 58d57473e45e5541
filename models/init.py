"""Initial weights from one generator."""

import math

import torch
from torch import Generator, Tensor, nn


def build_model(network: type[nn.Module], generator: Generator, images: Tensor | None = None) -> nn.Module:
    """The network with the weights that PyTorch's layers start from, drawn from `generator`.

    PyTorch's own constructors draw from the global generator; the values are the same as those after
    `torch.manual_seed(s)` where `generator` was seeded with `s`. Knows `Conv2d`, `Linear` and `BatchNorm2d`.
    A network with a method `initialize` then has it called, with `images`: normalized, of the training.
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
    initialize = getattr(net, "initialize", None)
    if initialize is not None:
        initialize(images)
    return net
