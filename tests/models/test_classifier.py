import math

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.classifier import Classifier, fit_temperature

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


class PositionSensitiveNet(nn.Module):
    """A network whose logits depend on positions: products with ten fixed random images."""

    templates: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = Generator().manual_seed(1)
        self.register_buffer("templates", torch.randn(10, 3, 32, 32, generator=generator) / 50)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.templates).sum((2, 3, 4))


def random_images(count: int) -> Tensor:
    return torch.randint(256, (count, 32, 32, 3), generator=Generator().manual_seed(0)).to(torch.uint8)


def translate(images: Tensor, by: int) -> Tensor:
    """By so many pixels down and right, with reflection at the border, by the index of each pixel."""
    indices = [abs(i - by) if i - by <= 31 else 62 - (i - by) for i in range(32)]
    return images[:, indices][:, :, indices]


@pytest.mark.parametrize("tta", ["none", "flip", "flip_translate"])
def test_classifier_logits_are_the_mean_over_the_views(tta: str) -> None:
    images = random_images(4)
    classifier = Classifier(PositionSensitiveNet(), MEAN, STD)

    def compute_logits(images: Tensor) -> Tensor:
        logits: Tensor = classifier.network(classifier.normalize(images))
        return logits

    def average_flips(images: Tensor) -> Tensor:
        return (compute_logits(images) + compute_logits(images.flip(2))) / 2

    expected = {
        "none": compute_logits(images),
        "flip": average_flips(images),
        "flip_translate": average_flips(images) / 2
        + average_flips(translate(images, 1)) / 4
        + average_flips(translate(images, -1)) / 4,
    }[tta]
    probabilities = Classifier(PositionSensitiveNet(), MEAN, STD, tta)(images)
    assert torch.allclose(probabilities, expected.softmax(1), atol=1e-6)


def test_classifier_with_flip_is_invariant_to_mirroring() -> None:
    images = random_images(3)
    classifier = Classifier(PositionSensitiveNet(), MEAN, STD, "flip")
    assert torch.allclose(classifier(images), classifier(images.flip(2)), atol=1e-6)
    without_tta = Classifier(PositionSensitiveNet(), MEAN, STD)
    assert not torch.allclose(without_tta(images), classifier(images), atol=1e-3)


def test_temperature_makes_probabilities_less_certain_and_keeps_the_class() -> None:
    logits = torch.tensor([[4.0, 2.0, 0.0]])
    classifier = Classifier(nn.Identity(), MEAN, STD, temperature=2.0)
    powers = [math.exp(2), math.exp(1), 1]
    expected = torch.tensor([[power / sum(powers) for power in powers]])
    assert torch.allclose(classifier.probabilities(logits), expected)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_fit_temperature_finds_the_one_that_the_labels_were_drawn_with(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_fit_temperature_minimizes_the_loss() -> None:
    """Any other temperature has a higher loss, found by PyTorch's own cross entropy."""
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(5000, 10, generator=generator, dtype=torch.float64)
    labels = torch.where(torch.rand(5000, generator=generator) < 0.5, logits.argmax(1), 0)
    best = fit_temperature(logits, labels)
    lowest = F.cross_entropy(logits / best, labels)
    assert all(F.cross_entropy(logits / (best * ratio), labels) > lowest for ratio in (0.97, 1.03))


@pytest.mark.parametrize(
    ("logits", "labels", "low", "high"),
    [
        # Of 20 images, all right: 20.5 of 21 is what is claimed, not certainty.
        (10 * torch.eye(2).repeat(10, 1), torch.arange(20) % 2, 2.6, 2.8),
        (torch.eye(2).repeat(10, 1), 1 - torch.arange(20) % 2, 10.0, 10.0),  # all wrong: as unsure as allowed
        (torch.zeros(20, 2), torch.arange(20) % 2, 1.0, 1.0),
        (torch.full((20, 2), math.nan), torch.arange(20) % 2, 1.0, 1.0),
    ],
    ids=["all right", "all wrong", "equal logits", "not a number"],
)
def test_fit_temperature_of_few_images_stays_within_reason(
    logits: torch.Tensor, labels: torch.Tensor, low: float, high: float
) -> None:
    assert low <= fit_temperature(logits, labels) <= high
