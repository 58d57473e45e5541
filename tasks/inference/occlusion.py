"""Which pixels moved a prediction: occlusion (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901).

It asks the exported file itself, so it explains what ships, the int8 model and test-time augmentation
included, and needs no PyTorch; Captum would explain the network before its export.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.inference.batches import Predictor, Probabilities, predict_in_batches

BATCH_SIZE = 256
WINDOW = 1 / 4  # of the image's side
STRIDE = 1 / 16


@dataclass(frozen=True)
class Occlusion:
    evidence: NDArray[np.float64]
    """`(S, S)`: the fall of the class's log-odds while a pixel was covered, averaged over the windows that
    cover it; negative where covering it made the class more probable"""
    window: tuple[int, int, int, int]
    """top, left, bottom, right of the window under which the class loses most"""
    probabilities: Probabilities
    """`(classes,)`, with this window covered"""


def occlude(predict: Predictor, image: NDArray[np.uint8], target: int, fill: ArrayLike) -> Occlusion:
    """Cover one square after the other of `image` `(S, S, 3)`, and see what becomes of the class `target`.

    `fill` is the color of the square, 0 to 255: the training images' mean tells the network least. Log-odds,
    because a probability close to 1 hardly moves.
    """
    size = len(image)
    window, stride = max(1, round(size * WINDOW)), max(1, round(size * STRIDE))
    starts = range(
        stride - window, size, stride
    )  # beyond the borders, so that each pixel is covered as often
    windows = [
        (max(top, 0), max(left, 0), min(top + window, size), min(left + window, size))
        for top in starts
        for left in starts
    ]
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
    """Against all other classes; their sum keeps the digits that 1 - p loses where p is close to 1."""
    own = probabilities[:, target].astype(np.float64)
    others = np.delete(probabilities, target, axis=1).astype(np.float64).sum(1)
    tiny = np.finfo(np.float32).tiny
    odds: NDArray[np.float64] = np.log(own.clip(tiny)) - np.log(others.clip(tiny))
    return odds
