"""Compare how sure a classifier says that it is with how often it is right (Guo et al. 2017).

https://arxiv.org/abs/1706.04599
"""

import numpy as np
from numpy.typing import NDArray


def compute_calibration_error(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int
) -> float:
    """Compute the expected calibration error, in [0, 1].

    It is the mean distance of confidence and accuracy over the bins of `bin_by_confidence`, each of which
    counts by its number of images.
    """
    confidence, accuracy, count = bin_by_confidence(probabilities, labels, bins)
    return float((np.abs(confidence - accuracy) * count).sum() / count.sum())


def bin_by_confidence(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean confidence, accuracy and number of images, each `(bins that are not empty,)`.

    `probabilities` is `(N, classes)`, `labels` `(N,)`. The bins have equal width; an image is in the bin of
    its confidence, which is the probability of its predicted class.
    """
    confidence = probabilities.max(1).astype(np.float64)
    correct = (probabilities.argmax(1) == labels).astype(np.float64)
    # Bin i has confidences above i / bins and up to (i + 1) / bins; a confidence of 0 is in the first bin.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    # `bincount` with weights adds the values of each bin, so its quotient by the count is their mean.
    means = [np.bincount(index, x, bins)[filled] / count[filled] for x in (confidence, correct)]
    return means[0], means[1], count[filled]
