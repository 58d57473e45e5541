import numpy as np
import pytest
import torch
from torch import nn

from models.classifier import Classifier
from tasks.confidence.answers import generate_meaningless_images, measure_confident_answers


class Brightness(nn.Module):
    """A network of two classes that is sure of bright images only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        brightness = x.mean((1, 2, 3))
        return torch.stack([100 * (brightness - 0.75), torch.zeros_like(brightness)], 1)


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_meaningless_images_are_noise_and_flat_colors_in_any_batches(batch_size: int) -> None:
    images = np.concatenate(list(generate_meaningless_images(100, 8, batch_size)))
    assert images.shape == (100, 8, 8, 3)
    assert images.dtype == np.uint8
    assert (images[1::2] == images[1::2, :1, :1]).all()
    assert len(np.unique(images[1::2, 0, 0], axis=0)) > 40
    assert images[::2].std((1, 2, 3)).min() > 50
    flat = np.concatenate(list(generate_meaningless_images(1000, 1, 1000)))[1::2]
    assert (flat.min(), flat.max()) == (0, 255)
    first = np.random.RandomState(1).randint(256, size=3, dtype=np.uint8)
    assert (images[1, 0, 0] == first).all(), "NumPy's stream of the image's number"
    (whole,) = generate_meaningless_images(100, 8, 100)
    assert (images == whole).all()


def test_measure_confident_answers_counts_those_that_reach_the_threshold() -> None:
    classifier = Classifier(Brightness(), [0.0] * 3, [1.0] * 3, image_size=8).eval()
    probabilities = torch.tensor([[0.95, 0.05], [0.91, 0.09], [0.2, 0.8], [0.05, 0.95]])
    measured = measure_confident_answers(classifier, probabilities, torch.tensor([0, 1, 1, 1]), 8, 300)
    assert measured["test_answered"] == 3 / 4
    assert measured["test_accuracy"] == pytest.approx(2 / 3)
    # It is unsure between the class thresholds only: where the mean is within 0.022 of 0.75. Noise never is.
    images = np.concatenate(list(generate_meaningless_images(1000, 8, 1000)))
    unsure = np.abs(images.mean((1, 2, 3)) / 255 - 0.75) < np.log(9) / 100
    assert 0 < unsure.sum() < 100
    assert measured["meaningless_answered"] == pytest.approx(1 - unsure.mean(), abs=0.002)


def test_measure_confident_answers_without_any_answer_has_no_accuracy() -> None:
    classifier = Classifier(Brightness(), [0.0] * 3, [1.0] * 3, image_size=8, temperature=1000.0).eval()
    measured = measure_confident_answers(classifier, torch.full((3, 2), 0.5), torch.zeros(3).long(), 8, 500)
    assert measured == {
        "threshold": 0.9,
        "test_answered": 0,
        "test_accuracy": None,
        "meaningless_images": 1000,
        "meaningless_answered": 0,
    }
