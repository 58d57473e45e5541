"""The classifier is what is evaluated and exported: it maps decoded images to calibrated probabilities."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0


class Classifier(nn.Module):
    """A classifier joins normalization, the network, test-time augmentation, temperature and softmax.

    It maps uint8 images `(N, S, S, 3)`, RGB, as decoded, to float32 probabilities `(N, classes)`. `mean` and
    `std` are per channel, for values in 0 to 1. `image_size` is S, which the export needs.

    `tta` names the test-time augmentation: the logits of several versions of an image are averaged
    (Krizhevsky et al., "ImageNet Classification", 2012, section 4.1). `flip` takes the image and its mirror
    image. `flip_translate` adds both of these translated by one pixel, once up and left and once down and
    right; the translated ones have half the weight in all (airbench).

    `temperature` divides the logits before softmax (Guo et al., "On Calibration of Modern Neural Networks",
    2017). Networks are trained with 1; a higher one makes the probabilities less certain. It is positive, so
    the class with the highest probability stays the same.
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
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.tta = tta
        self.image_size = image_size
        self.temperature = temperature
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
        return self.probabilities(self.logits(self.normalize(images)))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits `(N, classes)` into calibrated probabilities."""
        return torch.softmax(logits / self.temperature, dim=1)

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


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature at which the logits `(N, classes)` predict the labels `(N,)` best.

    It minimizes the negative log-likelihood. The labels should be of images that the network was not trained
    on. One image more, whose label is divided evenly among all classes, keeps the temperature away from 0
    where every prediction of a few images is right (Platt, "Probabilistic Outputs for SVMs", 1999).
    """
    logits, labels = logits.double().cpu(), labels.cpu()
    count = len(labels)
    if not 0 < float(logits.max() - logits.min()) < math.inf:
        return 1.0  # No temperature changes the probabilities of equal logits, or of ones that overflow.
    target = (count * logits.gather(1, labels[:, None]).mean() + logits.mean()) / (count + 1)
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    # The likelihood is concave in the temperature's inverse, so its slope changes its sign once. Bisection
    # finds that point and, unlike Newton's method, cannot overshoot.
    for _ in range(40):
        middle = (low * high) ** 0.5
        expected = (torch.softmax(logits * middle, dim=1) * logits).sum(1).mean()
        low, high = (low, middle) if expected > target else (middle, high)
    return round(1 / low, 4)
