import pytest
import torch
from torch import Generator, Tensor, nn

from models.classifier import Classifier

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


class Center(nn.Module):
    """A network that sees where things are: ten fixed random pictures, and how well each fits."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("maps", torch.randn(10, 3, 32, 32, generator=Generator().manual_seed(1)) / 50)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.maps).sum((2, 3, 4))


def pictures(count: int) -> Tensor:
    return torch.randint(256, (count, 32, 32, 3), generator=Generator().manual_seed(0)).to(torch.uint8)


def moved(images: Tensor, by: int) -> Tensor:
    """By so many pixels down and right, with a picture's own reflection at the border: an index a pixel."""
    places = [abs(place - by) if place - by <= 31 else 62 - (place - by) for place in range(32)]
    return images[:, places][:, :, places]


@pytest.mark.parametrize("views", ["none", "mirror", "flip_translate"])
def test_logits_are_the_mean_over_the_views(views: str) -> None:
    images = pictures(4)
    plain = Classifier(Center(), MEAN, STD)

    def both_ways(images: Tensor) -> Tensor:
        return (plain.network(plain.normalize(images)) + plain.network(plain.normalize(images.flip(2)))) / 2

    expected = {
        "none": plain.network(plain.normalize(images)),
        "mirror": both_ways(images),
        "flip_translate": both_ways(images) / 2
        + both_ways(moved(images, 1)) / 4
        + both_ways(moved(images, -1)) / 4,
    }[views]
    probabilities = Classifier(Center(), MEAN, STD, views)(images)
    assert torch.allclose(probabilities, expected.softmax(1), atol=1e-6)


def test_a_picture_and_its_mirror_image_are_the_same() -> None:
    images = pictures(3)
    classifier = Classifier(Center(), MEAN, STD, "mirror")
    assert torch.allclose(classifier(images), classifier(images.flip(2)), atol=1e-6)
    assert not torch.allclose(Classifier(Center(), MEAN, STD)(images), classifier(images), atol=1e-3)
