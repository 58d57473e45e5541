import pytest
import torch
from torch import Generator, Tensor, nn

from models.classifier import Classifier

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
