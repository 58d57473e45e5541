"""The stage `evaluate`: what the trained network is worth, on the validation and the test split."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from models.classifier import Classifier
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.params import EvaluateConfig
    from tasks.tracking import Tracker
    from tasks.workspace.splits import Split


CLASS_METRICS = ["precision", "recall", "f1"]
ERROR_COLUMNS = ["picture", "actual", "predicted", "probability"]
NUM_LOGGED_ERRORS = 24  # that are tracked


def evaluate(
    splits: Path,
    weights: Path,
    metrics: Path,
    confusion: Path,
    config: EvaluateConfig,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write `metrics` (JSON) and `confusion` (CSV, a row a test image), as docs/files.md says.

    The network is judged as it ships, from uint8 pictures to probabilities, on the CPU in float32. Where what
    ships averages over views of a picture, the accuracy of the network alone stands apart.
    """
    data = load_splits(splits)
    classifier, about = load_classifier(weights)
    if about["data_md5"] != data.metadata["data_md5"]:
        raise RunError(f"{weights} was trained on other data than {splits} holds; run the stage train again")
    classes = data.metadata["classes"]

    results: dict[str, Any] = {
        "model": type(classifier.network).__name__,
        "dataset": data.metadata["dataset"],
        "seed": about["seed"],
        "epochs": about["epochs"],
        "device": about["device"],
    }
    tta = classifier.tta
    without_tta = Classifier(classifier.network, about["mean"], about["std"]).eval()
    if tta != "none":
        results["tta"] = tta
    probabilities = predicted = torch.empty(0)
    for name, subset in (("val", data.val), ("test", data.test)):
        probabilities = predict_proba(classifier, subset.images, config.batch_size)
        results[name] = compute_metrics(probabilities, subset.labels, classes, config.calibration_bins)
        predicted = probabilities.argmax(1)  # the last one is the test split's
        if tta != "none":
            right = predict_proba(without_tta, subset.images, config.batch_size).argmax(1) == subset.labels
            results[name]["accuracy_no_tta"] = right.double().mean().item()
    results["test"]["accuracy_ci95"] = wilson_interval(
        int((predicted == data.test.labels).sum()), len(predicted)
    )

    with atomic_write(metrics) as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    with atomic_write(confusion) as partial, partial.open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["actual", "predicted"])
        rows.writerows((classes[a], classes[p]) for a, p in zip(data.test.labels, predicted, strict=True))

    test = results["test"]
    low, high = test["accuracy_ci95"]
    print(
        f"test accuracy {test['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}), ece {test['ece']:.4f}"
    )
    if tta != "none":
        plain = test["accuracy_no_tta"]
        print(f"that is over the views {tta}; of the network alone {plain:.4f}")
    if tracker is not None:
        step = about["epochs"] + 1
        with tracker.resume_run(weights, "evaluate", {"data_md5": about["data_md5"]}) as run:
            run.log_summary({split: results[split] for split in ("val", "test")})
            run.log_confusion_matrix(data.test.labels.tolist(), predicted.tolist(), classes, step)
            run.log_table(
                "per class", ["class", *CLASS_METRICS], _per_class_rows(results["test"]["per_class"]), step
            )
            run.log_table(
                "surest mistakes",
                ERROR_COLUMNS,
                _most_confident_errors(data.test, probabilities, classes),
                step,
            )
    return {"test_accuracy": test["accuracy"], "val_accuracy": results["val"]["accuracy"]}


def _per_class_rows(per_class: dict[str, dict[str, float]]) -> list[list[Any]]:
    return [[name, *(values[metric] for metric in CLASS_METRICS)] for name, values in per_class.items()]


def _most_confident_errors(test: Split, probabilities: Tensor, classes: list[str]) -> list[list[Any]]:
    likeliest, predicted = probabilities.max(1)
    wrong = (predicted != test.labels).nonzero().flatten()
    surest = wrong[likeliest[wrong].argsort(descending=True, stable=True)][:NUM_LOGGED_ERRORS]
    return [
        [
            test.images[i].numpy(),
            classes[int(test.labels[i])],
            classes[int(predicted[i])],
            likeliest[i].item(),
        ]
        for i in surest
    ]


@torch.inference_mode()
def predict_proba(classifier: Classifier, images: Tensor, batch_size: int) -> Tensor:
    """Probabilities `(N, 10)` of pictures `(N, 32, 32, 3)`."""
    return torch.cat([classifier(batch) for batch in torch.split(images, batch_size)])


def compute_metrics(
    probabilities: Tensor, labels: Tensor, classes: list[str], calibration_bins: int
) -> dict[str, Any]:
    """The metrics of one split.

    `balanced_accuracy` is the mean recall of the classes; `ece` the expected calibration error of the
    likeliest class in bins of equal width (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    """
    count = len(classes)
    precision = multiclass_precision(probabilities, labels, num_classes=count, average="none")
    recall = multiclass_recall(probabilities, labels, num_classes=count, average="none")
    f1 = multiclass_f1_score(probabilities, labels, num_classes=count, average="none")
    tiny = torch.finfo(probabilities.dtype).tiny  # a probability that was rounded to 0 costs 87, not infinity
    return {
        "loss": F.nll_loss(probabilities.clamp_min(tiny).log(), labels).item(),
        "accuracy": multiclass_accuracy(probabilities, labels, num_classes=count, average="micro").item(),
        "balanced_accuracy": recall.mean().item(),
        "macro_f1": f1.mean().item(),
        "ece": multiclass_calibration_error(
            probabilities, labels, num_classes=count, n_bins=calibration_bins
        ).item(),
        "per_class": {
            name: {"precision": precision[i].item(), "recall": recall[i].item(), "f1": f1[i].item()}
            for i, name in enumerate(classes)
        },
    }


def wilson_interval(hits: int, total: int) -> list[float]:
    """Wilson's 95% interval of a share (Wilson 1927), which is sound near 0 and 1 too."""
    bounds = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return [float(bounds.low), float(bounds.high)]
