"""Read what earlier stages wrote."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json


def read_results(file: Path) -> Any:
    """The JSON of a stage."""
    with _explain_errors(file):
        return read_json(file)


def read_history(file: Path) -> list[dict[str, float]]:
    """One row per epoch."""
    return [{name: float(value) for name, value in row.items()} for row in _read_rows(file)]


def count_confusions(predictions: Path, classes: Sequence[str]) -> NDArray[np.int64]:
    """The confusion matrix `(actual, predicted)`."""
    pairs = Counter((row["actual"], row["predicted"]) for row in _read_rows(predictions))
    return np.array([[pairs[actual, predicted] for predicted in classes] for actual in classes])


def _read_rows(file: Path) -> list[dict[str, str]]:
    with _explain_errors(file), file.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


@contextmanager
def _explain_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{file} not found; run the stage that writes it first") from None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {file}: {error}") from error
