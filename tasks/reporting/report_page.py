"""Judge and explain the results of one run: this is the content of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.inference.neighbors import NeighborIndex
from tasks.reporting.benchmark import (
    find_disturbance,
    format_backend,
    group_by_reason,
    recommend_backends,
    recommend_int8,
)
from tasks.reporting.diagnosis import FitDiagnosis, diagnose_fit, top_confusions
from tasks.reporting.gallery import explain_errors, gallery_items, list_label_errors, select_gallery
from tasks.reporting.inputs import ReportInputs

MAX_EXPLAINED = 8


@dataclass(frozen=True)
class ReportPage:
    """The values of `page.html`, each under the name that the template uses."""

    metadata: Mapping[str, Any]
    """the metadata of the weights: the training's parameters, its best epoch, the data set"""
    results: Mapping[str, Any]
    """the content of metrics.json"""
    benchmark: Mapping[str, Any]
    """the content of benchmark.json"""
    dataset: str
    """the data set in words"""
    sizes: Mapping[str, int]
    """the number of images of each split"""
    num_parameters: int
    """the number of the network's parameters"""
    classes: Sequence[str]
    """the classes, the one with the highest F1 first"""
    diagnosis: FitDiagnosis
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
    return ReportPage(
        metadata=inputs.metadata,
        results=inputs.results,
        benchmark=inputs.benchmark,
        dataset=inputs.metadata.get("dataset_description", inputs.metadata["dataset"]),
        sizes={name: len(getattr(data, name).labels) for name in ("train", "val", "test")},
        num_parameters=sum(tensor.numel() for tensor in inputs.classifier.network.parameters()),
        classes=sort_by_f1(inputs),
        diagnosis=diagnose_fit(inputs.epochs, inputs.metadata["epoch"]),
        overconfidence=float(probabilities.max(1).mean()) - test["accuracy"],
        confusions=top_confusions(inputs.confusions, inputs.classes),
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
