"""Write the headings of the report that state a finding, where there are enough images to state it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_CONFUSIONS = 10
"""number of images from which on two classes count as mixed up most often; of fewer, chance decides"""
MAX_HALF_WIDTH = 0.05
"""half width of a 95% interval from which on the report states no accuracy or confidence in a heading"""
CALIBRATED = 0.01
"""mean confidence minus accuracy below which a model counts as well calibrated"""
Z = 1.96  # the normal distribution's quantile for a 95% interval


def write_learning_heading(diagnosis: str, val_accuracy: float, num_val: int) -> str:
    """State the diagnosis, unless the validation accuracy that it rests on is too uncertain."""
    if Z * math.sqrt(val_accuracy * (1 - val_accuracy) / num_val) > MAX_HALF_WIDTH:
        return f"Learning: {num_val:,} validation images are too few to be sure"
    return f"Learning: {diagnosis.lower()}"


def write_confusion_heading(confusions: Sequence[tuple[str, str, int]]) -> str:
    """State which class is taken for which, by the most frequent errors: actual, predicted, images."""
    if not confusions:
        return "No image is taken for another class"
    actual, predicted, count = confusions[0]
    if count < MIN_CONFUSIONS:
        return "Too few errors to say which classes are mixed up most often"
    return f"Most often, {actual} is taken for {predicted}"


def write_calibration_heading(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    """State by how much the mean confidence differs from the accuracy, if images of that number can tell."""
    excess = probabilities.max(1).astype(np.float64) - (probabilities.argmax(1) == labels)
    mean, half_width = float(excess.mean()), Z * float(excess.std()) / math.sqrt(len(labels))
    if half_width > MAX_HALF_WIDTH:
        return f"{len(labels):,} test images are too few to judge its confidence"
    if abs(mean) < CALIBRATED:
        return "Well calibrated"
    if abs(mean) <= half_width:
        return f"Well calibrated, as far as {len(labels):,} test images can show"
    return f"It is {100 * abs(mean):.1f} points {'over' if mean > 0 else 'under'}confident"
