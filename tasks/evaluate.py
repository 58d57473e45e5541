"""The stage `evaluate` measures the trained network on the validation and test splits."""

from __future__ import annotations

import csv
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.classifier import Classifier
from tasks.confidence.answers import measure_confident_answers
from tasks.confidence.calibration import compute_calibration_error
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write, write_json
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.params import EvaluateConfig
    from tasks.tracking import Tracker


def evaluate(
    splits: Path,
    weights: Path,
    metrics: Path,
    predictions: Path,
    config: EvaluateConfig,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write `metrics` (JSON) and `predictions` (CSV, one row per test image); docs/files.md has the formats.

    The classifier that is evaluated is the one that is exported, from uint8 images to probabilities, on the
    CPU in float32. With test-time augmentation, the accuracy without it is reported as well. `RunError` if
    the weights were trained on different data.
    """
    data = load_splits(splits)
    classifier, metadata = load_classifier(weights)
    if metadata["data_md5"] != data.metadata["data_md5"]:
        raise RunError(f"{weights} was trained on different data than {splits}; re-run the train stage")
    classes = data.metadata["classes"]

    results: dict[str, Any] = {
        "model": type(classifier.network).__name__,
        "dataset": data.metadata["dataset"],
        "seed": metadata["seed"],
        "epochs": metadata["epochs"],
        "device": metadata["device"],
        "temperature": classifier.temperature,
    }
    tta = classifier.tta
    without_tta = Classifier(classifier.network, metadata["mean"], metadata["std"]).eval()
    if tta != "none":
        results["tta"] = tta
    probabilities = predicted = torch.empty(0)  # after the loop, those of the test split
    for name, subset in (("val", data.val), ("test", data.test)):
        logits = predict_logits(classifier, subset.images, config.batch_size)
        probabilities = classifier.probabilities(logits)
        results[name] = compute_metrics(probabilities, subset.labels, classes, config.calibration_bins)
        uncalibrated = measure_calibration(logits.softmax(1), subset.labels, config.calibration_bins)
        results[name] |= {f"{metric}_uncalibrated": value for metric, value in uncalibrated.items()}
        predicted = probabilities.argmax(1)
        if tta != "none":
            predicted_no_tta = predict_logits(without_tta, subset.images, config.batch_size).argmax(1)
            results[name]["accuracy_no_tta"] = (predicted_no_tta == subset.labels).double().mean().item()
    results["test"]["accuracy_ci95"] = wilson_interval(
        int((predicted == data.test.labels).sum()), len(predicted)
    )

    results["confident"] = measure_confident_answers(
        classifier, probabilities, data.test.labels, data.image_size, config.batch_size
    )
    write_json(metrics, results)
    _write_predictions(predictions, data.test.labels, predicted, classes)
    test = results["test"]
    _print_summary(test, classifier)
    if tracker is not None:
        with tracker.resume_run(weights, "evaluate", {"data_md5": metadata["data_md5"]}) as run:
            run.log_evaluation(results, data.test, probabilities, classes, step=metadata["epochs"] + 1)
    return {"test_accuracy": test["accuracy"], "val_accuracy": results["val"]["accuracy"]}


def _print_summary(test: dict[str, Any], classifier: Classifier) -> None:
    low, high = test["accuracy_ci95"]
    print(
        f"test accuracy {test['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}), ece {test['ece']:.2%} "
        f"at temperature {classifier.temperature:.2f}, {test['ece_uncalibrated']:.2%} without"
    )
    if (tta := classifier.tta) != "none":
        print(f"that is with test-time augmentation ({tta}); without it: {test['accuracy_no_tta']:.2%}")


def _write_predictions(file: Path, labels: Tensor, predicted: Tensor, classes: list[str]) -> None:
    """Write actual and predicted class of each test image, in the order of the split."""
    with atomic_write(file) as temp_path, temp_path.open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["actual", "predicted"])
        rows.writerows((classes[a], classes[p]) for a, p in zip(labels, predicted, strict=True))


@torch.inference_mode()
def predict_logits(classifier: Classifier, images: Tensor, batch_size: int) -> Tensor:
    """Predict uint8 images `(N, S, S, 3)` in batches, and return logits `(N, classes)`."""
    batches = torch.split(images, batch_size)
    return torch.cat([classifier.logits(classifier.normalize(batch)) for batch in batches])


def compute_metrics(
    probabilities: Tensor, labels: Tensor, classes: list[str], calibration_bins: int
) -> dict[str, Any]:
    """Compute the metrics of one split, from probabilities `(N, classes)` and labels `(N,)`.

    A class that has no image, or is never predicted, counts as 0 where a quotient has no value.
    `balanced_accuracy` is the mean recall of the classes.
    """
    count = len(classes)
    pairs = torch.bincount(labels * count + probabilities.argmax(1), minlength=count**2)
    confusion = pairs.reshape(count, count).float()  # actual classes by row, predicted ones by column
    hits, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall = hits / predicted.clamp_min(1), hits / actual.clamp_min(1)
    f1 = 2 * hits / (actual + predicted).clamp_min(1)
    return {
        **measure_calibration(probabilities, labels, calibration_bins),
        "accuracy": (hits.sum() / confusion.sum()).item(),
        "balanced_accuracy": recall.mean().item(),
        "macro_f1": f1.mean().item(),
        "per_class": {
            name: {"precision": precision[i].item(), "recall": recall[i].item(), "f1": f1[i].item()}
            for i, name in enumerate(classes)
        },
    }


def measure_calibration(probabilities: Tensor, labels: Tensor, bins: int) -> dict[str, float]:
    """Compute the loss, which is the mean negative log-likelihood, and the expected calibration error."""
    # float32 rounds small probabilities to 0, whose loss would be infinite; with this bound it is 87.
    tiny = torch.finfo(probabilities.dtype).tiny
    loss = F.nll_loss(probabilities.clamp_min(tiny).log(), labels).item()
    return {"loss": loss, "ece": compute_calibration_error(probabilities.numpy(), labels.numpy(), bins)}


def wilson_interval(num_correct: int, total: int) -> list[float]:
    """Compute Wilson's 95% interval of a proportion (Wilson 1927), which is also valid near 0 and 1."""
    z = NormalDist().inv_cdf(0.975)
    center = (num_correct + z**2 / 2) / (total + z**2)
    half_width = z * math.sqrt(num_correct * (total - num_correct) / total + z**2 / 4) / (total + z**2)
    return [max(0.0, center - half_width), min(1.0, center + half_width)]
