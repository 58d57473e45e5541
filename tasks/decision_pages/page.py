"""Write the page of a comparison, `reports/decisions/N.html`; N is the version of its line in the ledger.

It shows why a model was promoted or rejected: to a person who is asked, before the answer, and to anybody who
wants to know later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from tasks.decision_pages.changes import CodeChange, find_changes
from tasks.decision_pages.images import group_by_class, share_out
from tasks.decision_pages.outcome import END, begin_marker, render_outcome
from tasks.decision_pages.summary import describe_threshold, format_chance, list_tests
from tasks.registry.ledger import LedgerEntry, describe_detectable_gain
from tasks.registry.significance import paired_accuracy
from tasks.reporting.page import render_page
from tasks.workspace.files import write_text
from tasks.workspace.splits import Splits

TEMPLATE = Path(__file__).with_name("page.html")
MAX_ROWS = 40
"""number of rows of a table, at most"""


@dataclass(frozen=True)
class ComparedModels:
    """What a comparison has seen. Each pair is of the challenger and, if there is one, of the champion."""

    data: Splits
    classes: Sequence[str]
    """the challenger's"""
    metadata: Sequence[Mapping[str, Any]]
    """what the files say about the run that made them"""
    val_probabilities: Sequence[NDArray[np.float32]]
    """`(N, classes)` on the validation images; the champion's only where it was compared"""
    champion: LedgerEntry | None
    """the decision that made the champion"""


@dataclass(frozen=True)
class AccuracyRow:
    """The accuracy on some of the validation images, with confidence intervals."""

    name: str
    images: int
    challenger: tuple[float, float, float]
    """accuracy, lower and upper bound"""
    champion: tuple[float, float, float] | None
    gain: tuple[float, float, float] | None


def write_page(
    entry: LedgerEntry,
    entries: list[LedgerEntry],
    models: ComparedModels,
    code: CodeChange,
    confidence: float,
    name: str = "",
) -> Path:
    """Write the page of the comparison that `entry` records, and return its path.

    `entries` is the ledger, `name` the project's or empty. Equal arguments give equal bytes. `RunError` if
    the page cannot be written.
    """
    page, champion = Path(entry.page), models.champion
    is_compared = len(models.val_probabilities) > 1
    per_class, num_hidden = list_classes(models, confidence)
    values = {
        "project": {"name": name},
        "entry": entry,
        "evidence": entry.evidence,
        "champion": champion,
        "warning": models.data.metadata.get("dataset_warning"),
        "dataset": models.data.metadata.get("dataset_description", models.data.metadata.get("dataset", "")),
        "marker": begin_marker(entry.model_md5),
        "end": END,
        "outcome": render_outcome(entries, page, entry.model_md5),
        "threshold": describe_threshold(entry.evidence, confidence),
        "detectable": describe_detectable_gain(entry.evidence),
        "changes": champion and find_changes(entry, champion, models.metadata, models.classes, code),
        "code": code,
        "parts": select_images(models),
        "is_compared": is_compared,
        "confidence": confidence,
        "rows": [*list_subsets(models, confidence), *per_class],
        "num_hidden": num_hidden,
        "max_rows": MAX_ROWS,
        "tests": list_tests(entry.evidence, confidence),
        "format_chance": format_chance,
    }
    write_text(page, render_page(values, TEMPLATE))
    return page


def select_images(models: ComparedModels) -> list[dict[str, Any]]:
    """Return the parts of the page that show images, each with heading, number of images and classes."""
    split, probabilities = models.data.val, models.val_probabilities
    correct = [each.argmax(1) == split.labels.numpy() for each in probabilities]
    if len(correct) == 1:
        chosen = [("Images that it gets wrong", ~correct[0])]
    else:
        chosen = [
            ("Images that get worse", correct[1] & ~correct[0]),
            ("Images that get better", correct[0] & ~correct[1]),
        ]
    counts = [int(mask.sum()) for _, mask in chosen]
    limits = share_out(counts[0], counts[1] if len(counts) > 1 else 0)
    return [
        {
            "heading": heading,
            "count": count,
            "classes": group_by_class(mask, split, probabilities, models.classes, limit),
        }
        for (heading, mask), count, limit in zip(chosen, counts, limits, strict=False)
    ]


def list_subsets(models: ComparedModels, confidence: float) -> list[AccuracyRow]:
    """Return the rows of all validation images and, if some were added, of the others and of these."""
    n = len(models.data.val.labels)
    num_own = n - int(models.data.metadata.get("val_added", 0))
    subsets = {"all": np.arange(n)}
    if num_own < n:
        subsets |= {"the data set's own": np.arange(num_own), "added": np.arange(num_own, n)}
    return [measure(name, indices, models, confidence) for name, indices in subsets.items()]


def list_classes(models: ComparedModels, confidence: float) -> tuple[list[AccuracyRow], int]:
    """Return the rows of the classes, and the number of those left out: the ones that have changed least.

    Without a champion, the classes with the highest accuracy are left out.
    """
    labels = models.data.val.labels.numpy()
    rows = [
        measure(name, np.flatnonzero(labels == k), models, confidence)
        for k, name in enumerate(models.classes)
        if (labels == k).any()
    ]
    order = sorted(rows, key=lambda row: -abs(row.gain[0]) if row.gain else row.challenger[0])
    kept = {row.name for row in order[:MAX_ROWS]}
    return [row for row in rows if row.name in kept], max(len(rows) - MAX_ROWS, 0)


def measure(name: str, indices: NDArray[Any], models: ComparedModels, confidence: float) -> AccuracyRow:
    """Measure the models on the validation images with these indices, at least one."""
    labels = models.data.val.labels.numpy()[indices]
    correct = [each[indices].argmax(1) == labels for each in models.val_probabilities]
    accuracies = []
    for each in correct:
        bounds = binomtest(int(each.sum()), len(each)).proportion_ci(confidence, method="wilson")
        accuracies.append((float(each.mean()), float(bounds.low), float(bounds.high)))
    if len(correct) == 1:
        return AccuracyRow(name, len(indices), accuracies[0], None, None)
    paired = paired_accuracy(correct[0], correct[1], confidence)
    gain = (paired.accuracy_gain, *paired.gain_interval)
    return AccuracyRow(name, len(indices), accuracies[0], accuracies[1], gain)
