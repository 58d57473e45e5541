"""Read and check the files of earlier stages from which the report is made."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier
from tasks.inference.batches import Probabilities
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json
from tasks.workspace.splits import Splits, load_splits
from tasks.workspace.weights import load_classifier


@dataclass(frozen=True)
class ReportInputs:
    """The results of one run of the pipeline. `N` is the number of test images."""

    data: Splits
    classifier: Classifier
    metadata: Mapping[str, Any]
    """the metadata of the weights' file"""
    model: OnnxClassifier
    """the exported model, whose predictions the page shows"""
    probabilities: Probabilities
    """`(N, classes)`, float32, of the exported model on the test images"""
    epochs: Sequence[Mapping[str, float]]
    """the rows of history.csv"""
    results: Mapping[str, Any]
    """the content of metrics.json"""
    confusions: NDArray[np.int64]
    """`(actual, predicted)`: the number of test images in predictions.csv"""
    benchmark: Mapping[str, Any]
    """the content of benchmark.json"""

    @property
    def classes(self) -> list[str]:
        return list(self.data.metadata["classes"])

    @property
    def test_images(self) -> NDArray[np.uint8]:
        """Return the test images `(N, S, S, 3)`, RGB."""
        return self.data.test.images.numpy()

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """Return the class numbers `(N,)` of the test images."""
        return self.data.test.labels.numpy()


def read_inputs(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    history: Path,
    metrics: Path,
    predictions: Path,
    benchmarks: Path,
) -> ReportInputs:
    """Read all files. `RunError` names a file that is missing or corrupt."""
    data = load_splits(splits)
    classifier, metadata = load_classifier(weights)
    model = load_model(onnx_model)
    return ReportInputs(
        data=data,
        classifier=classifier,
        metadata=metadata,
        epochs=read_history(history),
        results=_read_results(metrics),
        benchmark=_read_results(benchmarks),
        confusions=count_confusions(predictions, data.metadata["classes"]),
        model=model,
        probabilities=model.predict_proba(data.test.images.numpy()),
    )


def read_history(file: Path) -> list[dict[str, float]]:
    """Read history.csv, one row per epoch."""
    return [{name: float(value) for name, value in row.items()} for row in _read_rows(file)]


def count_confusions(predictions: Path, classes: Sequence[str]) -> NDArray[np.int64]:
    """Count the rows of predictions.csv by actual and predicted class: the confusion matrix."""
    pairs = Counter((row["actual"], row["predicted"]) for row in _read_rows(predictions))
    return np.array([[pairs[actual, predicted] for predicted in classes] for actual in classes])


def _read_results(file: Path) -> Any:
    with _explain_errors(file):
        return read_json(file)


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
