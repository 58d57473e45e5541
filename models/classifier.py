"""A network as it ships: from decoded pictures to probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention


class Classifier(nn.Module):
    """Normalizes pictures, runs the network and gives probabilities.

    Takes uint8 pictures `(N, 32, 32, 3)`, RGB, as a program holds them after decoding, and gives float32
    probabilities `(N, 10)`. `mean` and `std` are per channel, for values in 0 to 1.

    `tta` names the views of a picture whose logits are averaged (Krizhevsky et al.,
    "ImageNet Classification", 2012, section 4.1): with `mirror` itself and its mirror image, with
    `flip_translate` also both moved by a pixel, up and left, and down and right, which count half (airbench).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        tta: str = "none",
    ) -> None:
        super().__init__()
        self.network = network
        self.tta = tta
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 `(N, 32, 32, 3)` to float32 `(N, 3, 32, 32)`, channels last in memory."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.logits(self.normalize(images)), dim=1)

    def logits(self, inputs: Tensor) -> Tensor:
        """Of normalized pictures `(N, 3, 32, 32)`, averaged over their views: `(N, 10)`."""
        if self.tta == "none":
            return self.network(inputs)  # type: ignore[no-any-return]
        logits = self._flip_averaged(inputs)
        if self.tta == "mirror":
            return logits
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        translated = self._flip_averaged(padded[:, :, :-2, :-2]) + self._flip_averaged(padded[:, :, 2:, 2:])
        return logits / 2 + translated / 4

    def _flip_averaged(self, inputs: Tensor) -> Tensor:
        # One after the other: six times the batch at once would be six times the memory.
        return (self.network(inputs) + self.network(inputs.flip(3))) / 2  # type: ignore[no-any-return]
