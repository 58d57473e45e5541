"""These functions build a network whose initial weights come from one generator, so that they repeat."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, nn

from models.hooks import SampleImages, get_hooks


@contextmanager
def seed_global_generator(generator: Generator, device: torch.device | None = None) -> Iterator[None]:
    """Seed PyTorch's global generator, and that of a CUDA `device`, from `generator`; then restore both."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[device] if device and device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def build_with_seed(network: Callable[[], nn.Module], generator: Generator) -> nn.Module:
    """Build a network that initializes itself from the global generator, seeded from `generator`."""
    with seed_global_generator(generator):
        return network()


def build_model(
    network: Callable[[], nn.Module], generator: Generator, sample_images: SampleImages | None = None
) -> nn.Module:
    """Build the network with PyTorch's default initialization, sampled from `generator`.

    PyTorch's own constructors sample from the global generator; the values equal those after
    `torch.manual_seed(s)` if `generator` was seeded with `s`. Supports `Conv2d`, `Linear` and `BatchNorm2d`;
    `TypeError` for any other layer with parameters. With `sample_images`, the network's own `init_weights`
    is called last.
    """
    with torch.random.fork_rng(devices=[]):  # what the constructors sample is replaced below
        model = network()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in module.parameters():  # the weight, then the bias
                    parameter.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()  # sets ones and zeros, so no generator is needed
            elif next(module.parameters(recurse=False), None) is not None:
                raise TypeError(f"no weight initialization defined for {type(module).__name__}")
    if sample_images is not None:
        get_hooks(model).init_weights(sample_images)
    return model
