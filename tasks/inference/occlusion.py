"""Explain a prediction by occlusion (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901).

Each part of the image is covered in turn, and the exported file predicts the result. So it is the file in use
that is explained, with quantization and test-time augmentation, and PyTorch is not needed. Captum would
explain the network before its export.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.inference.batches import Predictor, Probabilities, predict_in_batches

BATCH_SIZE = 256
WINDOW = 1 / 4  # side of the covered square, as a share of the image's side
STRIDE = 1 / 16  # step between two squares, as a share of the image's side


@dataclass(frozen=True)
class Occlusion:
    """The result of covering an image part by part."""

    evidence: NDArray[np.float64]
    """`(S, S)`: how far the class's log-odds fell while a pixel was covered, averaged over the windows that
    cover it; negative where the class became more probable"""
    window: tuple[int, int, int, int]
    """top, left, bottom, right of the window that lowers the log-odds most"""
    probabilities: Probabilities
    """`(classes,)`, probabilities with this window covered"""


def occlude(predict: Predictor, image: NDArray[np.uint8], target: int, fill: ArrayLike) -> Occlusion:
    """Cover one square of `image` `(S, S, 3)` after the other, and measure how class `target` changes.

    `fill` is the color of the square, 0 to 255; the mean of the training images tells the network least. The
    change is measured in log-odds, because a probability close to 1 hardly changes.
    """
    size = len(image)
    window, stride = max(1, round(size * WINDOW)), max(1, round(size * STRIDE))
    # Squares also begin beyond the borders, so that each pixel is covered equally often.
    starts = range(stride - window, size, stride)
    windows = [
        (max(top, 0), max(left, 0), min(top + window, size), min(left + window, size))
        for top in starts
        for left in starts
    ]
    # The first copy stays as it is: the prediction to compare with.
    covered = np.repeat(image[None], len(windows) + 1, axis=0)
    for copy, (top, left, bottom, right) in zip(covered[1:], windows, strict=True):
        copy[top:bottom, left:right] = fill
    probabilities = predict_in_batches(predict, covered, BATCH_SIZE)
    odds = _log_odds(probabilities, target)
    falls = odds[0] - odds[1:]
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for fall, (top, left, bottom, right) in zip(falls, windows, strict=True):
        total[top:bottom, left:right] += fall
        count[top:bottom, left:right] += 1
    strongest = int(falls.argmax())
    return Occlusion(total / count, windows[strongest], probabilities[strongest + 1])


def _log_odds(probabilities: Probabilities, target: int) -> NDArray[np.float64]:
    """Return the log-odds of a class against all others, `(N,)`.

    The sum of the other probabilities keeps the digits that 1 - p loses where p is close to 1.
    """
    own = probabilities[:, target].astype(np.float64)
    others = np.delete(probabilities, target, axis=1).astype(np.float64).sum(1)
    tiny = np.finfo(np.float32).tiny
    odds: NDArray[np.float64] = np.log(own.clip(tiny)) - np.log(others.clip(tiny))
    return odds
