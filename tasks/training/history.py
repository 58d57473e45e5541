"""The history of a training holds what is measured per epoch, and is saved as a CSV file."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tasks.workspace.files import atomic_write


@dataclass(frozen=True)
class EpochMetrics:
    """An epoch's metrics are a row of the history. They hold no time: equal trainings write equal files."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float


def write_history(file: Path, history: Iterable[EpochMetrics]) -> None:
    """Write a CSV `file` with a header and one row per epoch. `RunError` if it cannot be written."""
    with atomic_write(file) as temp_path, temp_path.open("w", newline="", encoding="utf-8") as table:
        rows = csv.DictWriter(table, [field.name for field in fields(EpochMetrics)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(metrics) for metrics in history)
