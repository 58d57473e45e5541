from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.training.metrics import EpochMetrics, StepMetrics, validate, write_history
from tasks.workspace.errors import RunError


def test_write_history_gives_one_row_per_epoch(tmp_path: Path) -> None:
    write_history(tmp_path / "h.csv", [EpochMetrics(1, 2.5, 0.1, 2.25, 0.125, 0.001)])
    assert (tmp_path / "h.csv").read_text() == (
        "epoch,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate\n1,2.5,0.1,2.25,0.125,0.001\n"
    )


def build_metrics(losses: list[float]) -> StepMetrics:
    """Metrics of ten images in batches of four, of which 3, 2 and 1 are right."""
    metrics = StepMetrics(10, 4, torch.device("cpu"))
    for loss, num_correct, lr in zip(losses, (3, 2, 1), (0.1, 0.2, 0.3), strict=True):
        metrics.update(torch.tensor(loss), torch.tensor(num_correct), lr)
    return metrics


def test_step_metrics_are_means_over_images() -> None:
    """By hand: (4 x 1 + 4 x 2 + 2 x 4) / 10."""
    assert build_metrics([1.0, 2.0, 4.0]).compute(1) == (2.0, 0.6, 0.3)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_step_metrics_name_the_first_step_with_a_loss_that_is_not_finite(loss: float) -> None:
    message = f"the loss is {loss} in epoch 5, step 2, at a learning rate of 0.2; try a lower train.lr"
    with pytest.raises(RunError, match=f"^{message}$"):
        build_metrics([1.0, loss, loss]).compute(5)


def test_validate_counts_only_the_right_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images in batches of three, whose pixels are their logits: two of two classes are right."""
    monkeypatch.setattr("tasks.training.metrics.VALIDATION_BATCH_SIZE", 3)
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    labels = torch.tensor([0, 1, 1, 0])
    images: Any = type("Images", (), {"gather": staticmethod(lambda indices: logits[indices])})
    normalize: Any = nn.Identity()
    model = nn.Identity().train()
    loss, accuracy = validate(model, normalize, images, labels)
    assert accuracy == 0.5
    # A right one costs log(1 + exp(-2)), a wrong one 2 more.
    assert loss == pytest.approx(0.126928 + 1, abs=1e-5)
    assert not model.training
