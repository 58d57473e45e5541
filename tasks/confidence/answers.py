"""Measure what is gained where the classifier may say that it is not sure.

A confident answer is one whose probability reaches a threshold. On test images most of these should be right.
On images that show nothing, noise and flat colors, there should be few: no answer to them is right.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import Classifier

THRESHOLD = 0.9
NUM_MEANINGLESS = 1000


@torch.inference_mode()
def measure_confident_answers(
    classifier: Classifier, probabilities: Tensor, labels: Tensor, image_size: int, batch_size: int
) -> dict[str, float | None]:
    """Return the shares of images that are answered confidently, and how many of these answers are right.

    `probabilities` `(N, classes)` and `labels` `(N,)` are those of the test images. The accuracy is None
    where no test image is answered.
    """
    confidence, predicted = probabilities.max(1)
    is_answered = confidence >= THRESHOLD
    num_answered, num_meaningless = int(is_answered.sum()), 0
    for images in generate_meaningless_images(NUM_MEANINGLESS, image_size, batch_size):
        num_meaningless += int((classifier(torch.from_numpy(images)).amax(1) >= THRESHOLD).sum())
    num_right = int((predicted == labels)[is_answered].sum())
    return {
        "threshold": THRESHOLD,
        "test_answered": num_answered / len(labels),
        "test_accuracy": num_right / num_answered if num_answered else None,
        "meaningless_images": NUM_MEANINGLESS,
        "meaningless_answered": num_meaningless / NUM_MEANINGLESS,
    }


def generate_meaningless_images(count: int, size: int, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield batches `(N, size, size, 3)`: noise and flat colors by turns, the same ones on every machine."""
    for start in range(0, count, batch_size):
        yield np.stack([_generate_image(i, size) for i in range(start, min(start + batch_size, count))])


def _generate_image(number: int, size: int) -> NDArray[np.uint8]:
    # RandomState is the generator whose stream NumPy promises never to change (NEP 19).
    random = np.random.RandomState(number)
    if number % 2:
        return np.tile(random.randint(256, size=3, dtype=np.uint8), (size, size, 1))
    return random.randint(256, size=(size, size, 3), dtype=np.uint8)
