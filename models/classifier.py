"""The classifier is what is evaluated and exported: it maps decoded images to probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention


class Classifier(nn.Module):
    """A classifier joins normalization, the network, test-time augmentation and softmax.

    It maps uint8 images `(N, S, S, 3)`, RGB, as decoded, to float32 probabilities `(N, classes)`. `mean` and
    `std` are per channel, for values in 0 to 1. `image_size` is S, which the export needs.

    `tta` names the test-time augmentation: the logits of several versions of an image are averaged
    (Krizhevsky et al., "ImageNet Classification", 2012, section 4.1). `flip` takes the image and its mirror
    image. `flip_translate` adds both of these translated by one pixel, once up and left and once down and
    right; the translated ones have half the weight in all (airbench).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        tta: str = "none",
        image_size: int = 32,
    ) -> None:
        super().__init__()
        self.network = network
        self.tta = tta
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize uint8 `(N, S, S, 3)` to float32 `(N, 3, S, S)`, with the channels last in memory.

        The export traces this method, whose constants hold three values each. Training uses a faster one that
        gives the same values up to rounding: `Normalize` in
        `tasks/training/loader.py`.
        """
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.logits(self.normalize(images)), dim=1)

    def logits(self, inputs: Tensor) -> Tensor:
        """Map normalized images `(N, 3, S, S)` to logits `(N, classes)`, averaged as `tta` says."""
        if self.tta == "none":
            return self.network(inputs)  # type: ignore[no-any-return]
        logits = self._flip_averaged(inputs)
        if self.tta == "flip":
            return logits
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        translated = self._flip_averaged(padded[:, :, :-2, :-2]) + self._flip_averaged(padded[:, :, 2:, 2:])
        return logits / 2 + translated / 4

    def _flip_averaged(self, inputs: Tensor) -> Tensor:
        # The network takes one version of the images after another: all six in a batch would take six times
        # the memory.
        return (self.network(inputs) + self.network(inputs.flip(3))) / 2  # type: ignore[no-any-return]
