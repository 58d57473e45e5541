"""Predict in batches, and define the types that every backend shares."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""images `(N, S, S, 3)`, RGB"""
Probabilities = NDArray[np.float32]
"""probabilities `(N, classes)`"""
Predictor = Callable[[Images], Probabilities]
"""function from images to probabilities, as each backend provides it"""


def predict_in_batches(predict: Predictor, images: Images, batch_size: int) -> Probabilities:
    """Predict all images in batches and return probabilities `(N, classes)`."""
    starts = range(0, len(images), batch_size)
    return np.concatenate([predict(images[start : start + batch_size]) for start in starts])


def select_cyclic_batch(images: Images, start: int, size: int) -> Images:
    """Return `size` images from position `start` on; the first image follows the last."""
    return np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])
