"""List the layers that an image passes in any network."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifier import Classifier


@dataclass(frozen=True)
class Layer:
    """One module that has no modules inside, in the order in which an image passes it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """the shape of what it returns for one image"""
    num_parameters: int


@torch.inference_mode()
def list_layers(classifier: Classifier, image: NDArray[np.uint8]) -> list[Layer]:
    """Run `image` `(S, S, 3)` through the network and list each call of a layer."""
    layers: list[Layer] = []

    def record(name: str, module: nn.Module, output: object) -> None:
        if isinstance(output, Tensor):
            parameters = sum(tensor.numel() for tensor in module.parameters())
            layers.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), parameters))

    hooks = [
        module.register_forward_hook(lambda module, _inputs, output, name=name: record(name, module, output))
        for name, module in classifier.network.named_modules()
        if not list(module.children())
    ]
    try:
        classifier.network(classifier.normalize(torch.from_numpy(image)[None]))
    finally:
        for hook in hooks:
            hook.remove()
    return layers
