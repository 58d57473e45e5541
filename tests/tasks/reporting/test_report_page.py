import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from tasks.reporting.report_page import bin_by_confidence, diagnose_fit
from tests.tasks.reporting.random_predictions import random_predictions


def epochs(train: list[float], val: list[float], val_loss: list[float]) -> list[dict[str, float]]:
    falling = np.linspace(2, 1, len(train)).tolist()
    return [
        {"train_accuracy": t, "val_accuracy": v, "val_loss": loss, "train_loss": fall}
        for t, v, loss, fall in zip(train, val, val_loss, falling, strict=True)
    ]


@pytest.mark.parametrize(
    ("history", "kept", "expected"),
    [
        (epochs([0.4, 0.5, 0.6], [0.4, 0.5, 0.6], [1.6, 1.4, 1.2]), 3, "Underfitting"),
        (epochs([0.6, 0.62, 0.625], [0.6, 0.61, 0.612], [1.2, 1.1, 1.1]), 3, "Sweet spot"),
        (
            epochs([0.5, 0.6, 0.7], [0.5, 0.58, 0.55], [1.3, 1.1, 1.3]),
            2,
            "Sweet spot, with overfitting after it",
        ),
        (epochs([0.5, 0.7, 0.95], [0.5, 0.6, 0.61], [1.3, 1.2, 1.9]), 3, "Overfitting"),
        (epochs([0.4], [0.4], [1.6]), 1, "Underfitting"),
    ],
)
def test_diagnose_fit_names_the_fit(history: list[dict[str, float]], kept: int, expected: str) -> None:
    assert diagnose_fit(history, kept).name == expected


def test_bin_by_confidence_adds_up_to_torchmetrics_calibration_error() -> None:
    probabilities, labels = random_predictions()
    confidence, share, count = bin_by_confidence(probabilities, labels, 15)
    error = (np.abs(confidence - share) * count).sum() / count.sum()
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=10, n_bins=15
    )
    assert error == pytest.approx(expected.item(), abs=1e-6)
    assert count.sum() == 400
