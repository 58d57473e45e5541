"""The headings of the report state what the images can carry, and nothing else."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.reporting.headlines import (
    write_calibration_heading,
    write_confusion_heading,
    write_learning_heading,
)


def heading(confidence: float, accuracy: float, count: int) -> str:
    labels = np.zeros(count, np.int64)
    probabilities = np.tile(np.array([confidence, 1 - confidence], np.float32), (count, 1))
    wrong = slice(round(accuracy * count), None)
    probabilities[wrong] = probabilities[wrong, ::-1]
    return write_calibration_heading(probabilities, labels)


@pytest.mark.parametrize(
    ("confidence", "accuracy", "count", "expected"),
    [
        (0.9, 0.6, 36, "36 test images are too few to judge its confidence"),
        (0.75, 0.5, 4, "4 test images are too few to judge its confidence"),
        (0.7, 0.6, 10_000, "It is 10.0 points overconfident"),
        (0.6, 0.7, 10_000, "It is 10.0 points underconfident"),
        (0.705, 0.7, 10_000, "Well calibrated"),
        (0.72, 0.7, 1000, "Well calibrated, as far as 1,000 test images can show"),
    ],
)
def test_calibration_is_stated_where_images_can_tell(
    confidence: float, accuracy: float, count: int, expected: str
) -> None:
    assert heading(confidence, accuracy, count) == expected


def test_calibration_interval_is_that_of_the_accuracy_at_equal_confidences() -> None:
    """At 900 of 1,200 right, 95% of all samples are within 2.45 points."""
    interval = binomtest(900, 1200).proportion_ci(0.95, method="wilson")
    beyond, within = interval.high + 0.002, interval.high - 0.002
    assert heading(beyond, 0.75, 1200).endswith("points overconfident")
    assert heading(within, 0.75, 1200).startswith("Well calibrated, as far")


def test_confusion_of_two_images_is_no_heading() -> None:
    assert write_confusion_heading([("cat", "dog", 130)]) == "Most often, cat is taken for dog"
    assert "Too few errors" in write_confusion_heading([("cat", "dog", 2), ("dog", "cat", 1)])
    assert write_confusion_heading([]) == "No image is taken for another class"


@pytest.mark.parametrize(
    ("num_val", "expected"),
    [(5000, "Learning: sweet spot"), (36, "Learning: 36 validation images are too few to be sure")],
)
def test_diagnosis_of_few_images_is_no_heading(num_val: int, expected: str) -> None:
    assert write_learning_heading("Sweet spot", 0.62, num_val) == expected
