"""Read and judge the results of one run, and draw its figures: this is the content of the report."""

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
from tasks.confidence.calibration import bin_by_confidence
from tasks.inference.explain import NeighborIndex
from tasks.inference.onnx_classifier import OnnxClassifier, Probabilities, load_model
from tasks.reporting.benchmark import (
    find_disturbance,
    format_backend,
    group_by_reason,
    plot_benchmark,
    recommend_backends,
    recommend_int8,
)
from tasks.reporting.charts import (
    MAX_LABELED_CLASSES,
    plot_calibration,
    plot_confusion_matrix,
    plot_history,
    plot_precision_and_recall,
)
from tasks.reporting.gallery import (
    explain_errors,
    gallery_items,
    list_label_errors,
    most_confident_correct,
    render_filters,
    select_gallery,
)
from tasks.reporting.headlines import (
    write_calibration_heading,
    write_confusion_heading,
    write_learning_heading,
)
from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json
from tasks.workspace.splits import Splits, load_splits
from tasks.workspace.weights import load_classifier

MAX_EXPLAINED = 8
MAX_TRAIN_VAL_GAP = 0.10  # accuracy by which training may be ahead of validation
MIN_LATE_GAIN = 0.01  # gain of accuracy in the last third of the epochs that makes more epochs worthwhile
MAX_VAL_LOSS_RISE = 1.02  # multiple of the lowest validation loss above which the loss counts as rising


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
    def dataset(self) -> str:
        """Return what the pages call the data set."""
        if name := self.model.project["name"]:
            return f"the images of {name}"
        return str(self.metadata.get("dataset_description", self.metadata["dataset"]))

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.classifier.network.parameters())

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


@dataclass(frozen=True)
class FitDiagnosis:
    """How well the network fits: underfitting, sweet spot, overfitting."""

    name: str
    reason: str
    advice: str


def diagnose_fit(
    epochs: Sequence[Mapping[str, float]], best_epoch: int, adviser: str = "the talk"
) -> FitDiagnosis:
    """Diagnose the best epoch by its gap between training and validation, later ones by validation loss.

    The advice is attributed to the `adviser`.
    """
    best = epochs[best_epoch - 1]
    gap = best["train_accuracy"] - best["val_accuracy"]
    early_best = max(epoch["val_accuracy"] for epoch in epochs[: max(1, len(epochs) * 2 // 3)])
    late_gain = best["val_accuracy"] - early_best
    lowest_val_loss = min(epoch["val_loss"] for epoch in epochs)
    gap_text = f"Training is {100 * gap:.1f} points of accuracy ahead of validation at epoch {best_epoch}"
    if gap > MAX_TRAIN_VAL_GAP:
        return FitDiagnosis(
            "Overfitting",
            f"{gap_text}: it has memorized its training images (high variance).",
            f"{adviser.capitalize()} advises: get even more data (augmentation makes some of what there is), "
            "or reduce the dimension of the features, that is a smaller network.",
        )
    if best_epoch == len(epochs) and (late_gain > MIN_LATE_GAIN or len(epochs) == 1):
        return FitDiagnosis(
            "Underfitting",
            f"The last epoch is the best one, and the last third of the epochs still gained "
            f"{100 * late_gain:.1f} points: training ended before the network learned "
            "what it can (high bias).",
            f"{adviser.capitalize()} advises: adjust the learning rate and the number of epochs; if that is "
            "not enough, choose another architecture.",
        )
    rising = epochs[-1]["val_loss"] > MAX_VAL_LOSS_RISE * lowest_val_loss
    if rising and epochs[-1]["train_loss"] < best["train_loss"]:
        return FitDiagnosis(
            "Sweet spot, with overfitting after it",
            f"{gap_text}. After it the training loss keeps falling while the validation loss rises: from "
            "there on the network memorizes its training images. Those epochs were discarded.",
            f"Use this model. More epochs will not help; for a better one {adviser} advises more data, or "
            "another architecture.",
        )
    return FitDiagnosis(
        "Sweet spot",
        f"{gap_text}, and the validation loss has not begun to rise.",
        f"Use this model. For a better one {adviser} advises more data, or another architecture.",
    )


def top_confusions(
    counts: NDArray[np.int64], classes: Sequence[str], limit: int = 3
) -> list[tuple[str, str, int]]:
    """Return the most frequent errors in `counts` `(actual, predicted)`: actual, predicted, images."""
    # The diagonal holds the correct predictions, which are no confusion.
    errors = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    order = np.argsort(-errors, axis=None, kind="stable")[:limit]
    # The order is that of the flattened matrix; `divmod` turns a position back into row and column.
    pairs = [divmod(int(index), len(classes)) for index in order]
    return [(classes[a], classes[p], int(errors[a, p])) for a, p in pairs if errors[a, p]]


@dataclass(frozen=True)
class ReportPage:
    """The values of `page.html`, each under the name that the template uses."""

    metadata: Mapping[str, Any]
    """the metadata of the weights: the training's parameters, its best epoch, the data set"""
    results: Mapping[str, Any]
    """the content of metrics.json"""
    benchmark: Mapping[str, Any]
    """the content of benchmark.json"""
    project: Mapping[str, str]
    """name, description, license and owner of the project; each may be empty"""
    dataset: str
    """the data set in words"""
    sizes: Mapping[str, int]
    """the number of images of each split"""
    num_parameters: int
    """the number of the network's parameters"""
    classes: Sequence[str]
    """the classes, the one with the highest F1 first"""
    diagnosis: FitDiagnosis
    headings: Mapping[str, str]
    """the headings of the parts `learning`, `confusion` and `calibration`, which state a finding"""
    overconfidence: float
    """the mean confidence minus the accuracy on the test images"""
    confusions: Sequence[tuple[str, str, int]]
    """the most frequent errors: actual class, predicted class, number of images"""
    errors: Sequence[Mapping[str, Any]]
    """the most confident errors"""
    correct: Sequence[Mapping[str, Any]]
    """the least confident correct predictions"""
    explanations: Sequence[Mapping[str, Any]]
    """why the first of the errors were made"""
    num_label_errors: int
    """how many labels of validation and test images are likely wrong"""
    label_errors: Sequence[Mapping[str, Any]]
    """the most certain of these"""
    recommended: Mapping[str, Mapping[str, Any]]
    """the rows of benchmark.json with the lowest latency and with the highest throughput"""
    disturbance: str
    """why these rows are not recommended, or empty"""
    backends: Mapping[str, str]
    """the name that the page shows for each backend of benchmark.json"""
    skipped: Mapping[str, Sequence[str]]
    """the backends that were not measured, by reason"""
    int8: str | None
    """whether int8 pays off, in a sentence"""


def judge_results(inputs: ReportInputs, onnx_model: Path, gallery_size: int) -> ReportPage:
    """Diagnose the training, explain the errors, recommend a backend."""
    data, model, labels = inputs.data, inputs.model, inputs.test_labels
    probabilities, test, rows = inputs.probabilities, inputs.results["test"], inputs.benchmark["results"]
    disturbance = find_disturbance(inputs.benchmark["environment"])
    errors, correct = (
        gallery_items(indices, inputs.test_images, labels, probabilities, inputs.classes)
        for indices in select_gallery(probabilities, labels, gallery_size)
    )
    neighbors = NeighborIndex(onnx_model, data.train.images.numpy(), data.train.labels.numpy())
    num_label_errors, label_errors = list_label_errors(data, model, probabilities, gallery_size)
    # A project with a name of its own says nothing about the talk, from which this project grew.
    adviser = "common practice" if model.project["name"] else "the talk"
    diagnosis = diagnose_fit(inputs.epochs, inputs.metadata["epoch"], adviser)
    confusions = top_confusions(inputs.confusions, inputs.classes)
    val_accuracy = inputs.results["val"]["accuracy"]
    return ReportPage(
        metadata=inputs.metadata,
        results=inputs.results,
        benchmark=inputs.benchmark,
        project=model.project,
        dataset=inputs.dataset,
        sizes={name: len(getattr(data, name).labels) for name in ("train", "val", "test")},
        num_parameters=inputs.num_parameters,
        classes=sort_by_f1(inputs),
        diagnosis=diagnosis,
        headings={
            "learning": write_learning_heading(diagnosis.name, val_accuracy, len(data.val.labels)),
            "confusion": write_confusion_heading(confusions),
            "calibration": write_calibration_heading(probabilities, labels),
        },
        overconfidence=float(probabilities.max(1).mean()) - test["accuracy"],
        confusions=confusions,
        errors=errors,
        correct=correct,
        explanations=explain_errors(errors[:MAX_EXPLAINED], data, model, neighbors),
        num_label_errors=num_label_errors,
        label_errors=label_errors,
        recommended=recommend_backends(rows),
        disturbance=disturbance,
        backends={row["name"]: format_backend(row) for row in rows},
        skipped=group_by_reason(inputs.benchmark["skipped"]),
        int8=recommend_int8(rows, disturbance),
    )


def sort_by_f1(inputs: ReportInputs) -> list[str]:
    """Sort the classes by their F1 on the test images, the highest first."""
    per_class = inputs.results["test"]["per_class"]
    return sorted(inputs.classes, key=lambda name: -per_class[name]["f1"])


def draw_figures(inputs: ReportInputs, calibration_bins: int) -> tuple[dict[str, str], bytes | None]:
    """Draw the charts, as SVG by file name, and the first layer's filters, as PNG or None.

    Filters are drawn if the first layer takes RGB.
    """
    probabilities, labels = inputs.probabilities, inputs.test_labels
    shown = sort_by_f1(inputs)[-MAX_LABELED_CLASSES:]
    per_class = inputs.results["test"]["per_class"]
    precision, recall = ([per_class[name][key] for name in shown] for key in ("precision", "recall"))
    best_epoch = inputs.metadata["epoch"]
    svgs = {
        "loss.svg": plot_history(inputs.epochs, "loss", best_epoch),
        "accuracy.svg": plot_history(inputs.epochs, "accuracy", best_epoch, percent=True),
        "confusion.svg": plot_confusion_matrix(inputs.confusions, inputs.classes),
        "classes.svg": plot_precision_and_recall(shown, precision, recall),
        "calibration.svg": plot_calibration(*bin_by_confidence(probabilities, labels, calibration_bins)),
        **plot_benchmark(inputs.benchmark["results"]),
    }
    surest = inputs.test_images[most_confident_correct(probabilities, labels)]
    return svgs, render_filters(inputs.classifier, surest)
