import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from tasks.confidence.calibration import bin_by_confidence, compute_calibration_error
from tests.tasks.reporting.random_predictions import random_predictions


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_bins_are_those_of_scikit_learn(bins: int) -> None:
    probabilities, labels = random_predictions()
    confidence, accuracy, count = bin_by_confidence(probabilities, labels, bins)
    is_correct = probabilities.argmax(1) == labels
    expected = calibration_curve(is_correct, probabilities.max(1).astype(float), n_bins=bins)
    assert accuracy == pytest.approx(expected[0])
    assert confidence == pytest.approx(expected[1])
    assert count.sum() == 400


def test_calibration_error_by_hand() -> None:
    """Of two bins, one has an image at 0.4, which is right; the other three at 0.8, two of them right."""
    probabilities = np.array([[0.4, 0.3, 0.3], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.2, 0.0]], np.float32)
    error = compute_calibration_error(probabilities, np.array([0, 0, 1, 2]), 2)
    assert error == pytest.approx(0.25 * 0.6 + 0.75 * (0.8 - 2 / 3), abs=1e-6)


def test_confidence_at_an_edge_is_in_the_bin_below_it() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.75, 0.25, 0.0], [1.0, 0.0, 0.0]], np.float32)
    confidence, _, count = bin_by_confidence(probabilities, np.zeros(3, np.int64), 4)
    assert confidence.tolist() == [0.5, 0.75, 1.0]
    assert count.tolist() == [1, 1, 1]
