"""A network as it ships: from decoded pictures to probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Normalises pictures, runs the network and gives probabilities.

    Takes uint8 pictures `(N, 32, 32, 3)`, RGB, as a program holds them after decoding, and gives float32
    probabilities `(N, 10)`. `mean` and `std` are per channel, for values in 0 to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `(N, 32, 32, 3)` to float32 `(N, 3, 32, 32)`, channels last in memory."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network(self.normalise(images)), dim=1)
