"""The stage `report`: render the HTML report, and its figures as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.benchmarking.backends import Backend
from tasks.inference.neighbors import MAX_CANDIDATES, NeighborIndex
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.registry.ledger import describe_test, read_ledger
from tasks.reporting.benchmark import (
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
    plot_learning_curves,
    plot_precision_and_recall,
)
from tasks.reporting.diagnosis import bin_by_confidence, diagnose_fit, top_confusions
from tasks.reporting.filters import render_filters
from tasks.reporting.gallery import (
    gallery_items,
    label_error_items,
    make_data_uri,
    make_thumbnail,
    most_confident_correct,
    select_gallery,
)
from tasks.reporting.inputs import count_confusions, read_history, read_results
from tasks.reporting.label_errors import find_label_errors
from tasks.reporting.page import render_page
from tasks.reporting.saliency import describe_place, draw_evidence
from tasks.reporting.svg import make_standalone
from tasks.workspace.dataset_name import describe_dataset
from tasks.workspace.files import atomic_write, hash_file
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.inference.batches import Probabilities
    from tasks.params import EvaluateConfig, ReportConfig
    from tasks.workspace.splits import Splits

SHOWN_DECISIONS = 10
EXPLAINED_ERRORS = 8
NEIGHBORS = 3


def report(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    history: Path,
    metrics: Path,
    predictions: Path,
    benchmarks: Path,
    page: Path,
    figures: Path,
    evaluate: EvaluateConfig,
    config: ReportConfig,
) -> dict[str, Any]:
    """Write the `figures` (SVG and PNG) and the `page`, which embeds them: one file that needs no other.

    Deterministic: equal inputs give equal bytes. The gallery shows predictions of the exported model on the
    test split.
    """
    data = load_splits(splits)
    classes: list[str] = data.metadata["classes"]
    classifier, metadata = load_classifier(weights)
    epochs, results, benchmark = read_history(history), read_results(metrics), read_results(benchmarks)
    counts = count_confusions(predictions, classes)
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    model = load_model(onnx_model)
    probabilities = model.predict_proba(images)

    test, rows = results["test"], benchmark["results"]
    by_f1 = sorted(classes, key=lambda name: -test["per_class"][name]["f1"])
    shown = by_f1[-MAX_LABELED_CLASSES:]
    precision, recall = ([test["per_class"][name][key] for name in shown] for key in ("precision", "recall"))
    bins = bin_by_confidence(probabilities, labels, evaluate.calibration_bins)
    svgs = _plot_history(epochs, metadata["epoch"]) | {
        "confusion.svg": plot_confusion_matrix(counts, classes),
        "classes.svg": plot_precision_and_recall(shown, precision, recall),
        "calibration.svg": plot_calibration(*bins),
    }
    svgs |= plot_benchmark(rows)
    filters_png = render_filters(classifier, images[most_confident_correct(probabilities, labels)])
    _write_figures(figures, svgs, filters_png)

    selected = select_gallery(probabilities, labels, config.gallery_size)
    errors, correct = (gallery_items(indices, images, labels, probabilities, classes) for indices in selected)
    num_label_errors, label_errors = _find_label_errors(data, model, probabilities, config.gallery_size)
    neighbors = NeighborIndex(onnx_model, data.train.images.numpy(), data.train.labels.numpy())
    html = render_page(
        {
            "page": page,
            "metadata": metadata,
            "results": results,
            "overconfidence": float(probabilities.max(1).mean()) - test["accuracy"],
            "classes": by_f1,
            "num_shown_classes": len(shown),
            "dataset": describe_dataset(metadata["dataset"]),
            "diagnosis": diagnose_fit(epochs, metadata["epoch"]),
            "num_parameters": sum(tensor.numel() for tensor in classifier.network.parameters()),
            "model_kb": onnx_model.stat().st_size / 1000,
            "sizes": {name: len(getattr(data, name).labels) for name in ("train", "val", "test")},
            "figures": {name.removesuffix(".svg"): svg for name, svg in svgs.items()},
            "filters": filters_png and make_data_uri(filters_png),
            "confusions": top_confusions(counts, classes),
            "errors": errors,
            "correct": correct,
            "explanations": _explain_errors(errors[:EXPLAINED_ERRORS], data, model, neighbors),
            "max_candidates": MAX_CANDIDATES,
            "num_label_errors": num_label_errors,
            "label_errors": label_errors,
            "benchmark": benchmark,
            "format_backend": format_backend,
            "recommended": recommend_backends(rows),
            "backends": {
                Backend(row["backend"], row["precision"], row["provider"]).name: format_backend(row)
                for row in rows
            },
            "skipped": group_by_reason(benchmark["skipped"]),
            "int8": recommend_int8(rows),
            # The ledger is no dependency: most workspaces have none, and no decision outdates a report.
            "decisions": read_ledger()[::-1],
            "describe_test": describe_test,
            "shown_decisions": SHOWN_DECISIONS,
            "files": {str(file): hash_file(file, "md5") for file in (weights, onnx_model)},
        }
    )
    with atomic_write(page) as temp_path:
        temp_path.write_text(html, encoding="utf-8")
    print(f"{page}: {len(html.encode()) / 1000:,.0f} kB, and {len(svgs)} figures in {figures}")
    return {"page": str(page)}


def _explain_errors(
    errors: Sequence[Mapping[str, Any]], data: Splits, model: OnnxClassifier, neighbors: NeighborIndex
) -> list[dict[str, Any]]:
    """What the page shows of why each of the gallery's `errors` was made."""
    explanations = []
    for error in errors:
        image = data.test.images[error["index"]].numpy()
        target = model.classes.index(error["predicted"])
        occlusion = model.explain(image, target)
        covered_class, covered_confidence = model.top_k(occlusion.probabilities, 1)[0]
        explanations.append(
            {
                **error,
                "evidence": make_thumbnail(draw_evidence(image, occlusion.evidence)),
                "place": describe_place(occlusion.window, len(image)),
                "covered_class": covered_class,
                "covered_confidence": covered_confidence,
                "neighbors": [
                    {"index": index, **make_thumbnail(data.train.images[index].numpy())}
                    for index in neighbors.find(image, target, NEIGHBORS)
                ],
            }
        )
    return explanations


def _find_label_errors(
    data: Splits, model: OnnxClassifier, test_probabilities: Probabilities, count: int
) -> tuple[int, list[dict[str, Any]]]:
    """The number of likely errors in validation and test labels, and what the page shows of the first."""
    num_val = len(data.val.labels)
    labels = np.concatenate([data.val.labels.numpy(), data.test.labels.numpy()])
    probabilities = np.concatenate([model.predict_proba(data.val.images.numpy()), test_probabilities])
    found = find_label_errors(labels, probabilities)
    places = [
        (data.val, "val", i) if i < num_val else (data.test, "test", i - num_val) for i in found[:count]
    ]
    images = [split.images[int(i)].numpy() for split, _, i in places]
    names = [f"{name} {i}" for _, name, i in places]
    items = label_error_items(found[:count], images, labels, probabilities, model.classes, names)
    return len(found), items


def _plot_history(epochs: Sequence[Mapping[str, float]], best_epoch: int) -> dict[str, str]:
    numbers = [int(epoch["epoch"]) for epoch in epochs]

    def plot(quantity: str, *, percent: bool) -> str:
        train, val = ([epoch[f"{split}_{quantity}"] for epoch in epochs] for split in ("train", "val"))
        return plot_learning_curves(numbers, train, val, best_epoch, percent=percent)

    return {"loss.svg": plot("loss", percent=False), "accuracy.svg": plot("accuracy", percent=True)}


def _write_figures(folder: Path, svgs: Mapping[str, str], filters_png: bytes | None) -> None:
    for name, svg in svgs.items():
        with atomic_write(folder / name) as temp_path:
            temp_path.write_text(make_standalone(svg), encoding="utf-8")
    if filters_png is not None:
        with atomic_write(folder / "filters.png") as temp_path:
            temp_path.write_bytes(filters_png)
