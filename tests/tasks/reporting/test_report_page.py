import numpy as np
import pytest

from tasks.reporting.report_page import diagnose_fit


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
    diagnosis = diagnose_fit(history, kept)
    assert diagnosis.name == expected
    assert "the talk advises" in diagnosis.advice.lower()
    assert "talk" not in diagnose_fit(history, kept, "common practice").advice
