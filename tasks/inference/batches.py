"""Prediction in batches, and the types that every backend shares."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""`(N, S, S, 3)`, RGB"""
Probabilities = NDArray[np.float32]
"""`(N, classes)`"""
Predictor = Callable[[Images], Probabilities]


def predict_in_batches(predict: Predictor, images: Images, batch_size: int) -> Probabilities:
    starts = range(0, len(images), batch_size)
    return np.concatenate([predict(images[start : start + batch_size]) for start in starts])


def select_cyclic_batch(images: Images, start: int, size: int) -> Images:
    """`size` images from `start` on, continuing with the first after the last."""
    return np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])
