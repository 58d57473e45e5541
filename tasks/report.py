"""The stage `report` renders the HTML report, and its figures as files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tasks.inference.neighbors import MAX_CANDIDATES
from tasks.network_page.page import write_network_page
from tasks.reporting.benchmark import format_backend, plot_benchmark
from tasks.reporting.charts import (
    MAX_LABELED_CLASSES,
    plot_calibration,
    plot_confusion_matrix,
    plot_history,
    plot_precision_and_recall,
)
from tasks.reporting.diagnosis import bin_by_confidence
from tasks.reporting.filters import render_filters
from tasks.reporting.gallery import make_data_uri, most_confident_correct
from tasks.reporting.inputs import ReportInputs, read_inputs
from tasks.reporting.page import render_page
from tasks.reporting.report_page import judge_results, sort_by_f1
from tasks.reporting.svg import make_standalone
from tasks.workspace.files import hash_file, write_bytes, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.params import EvaluateConfig, ReportConfig


def report(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    history: Path,
    metrics: Path,
    predictions: Path,
    benchmarks: Path,
    page: Path,
    network_page: Path,
    figures: Path,
    evaluate: EvaluateConfig,
    config: ReportConfig,
) -> dict[str, Any]:
    """Write the `figures` (SVG and PNG), the `page`, which embeds them, and the `network_page`.

    Each page is one file that needs no other. Equal inputs give equal bytes: the pages show no time and no
    decision, which have pages of their own. The gallery shows predictions of the exported model on the test
    split.
    """
    inputs = read_inputs(splits, weights, onnx_model, history, metrics, predictions, benchmarks)
    svgs, filters_png = draw_figures(inputs, evaluate.calibration_bins)
    _write_figures(figures, svgs, filters_png)
    html = render_page(
        {
            **vars(judge_results(inputs, onnx_model, config.gallery_size)),
            "page": page,
            "network_page": os.path.relpath(network_page, page.parent),
            "sources": {
                "history": history,
                "metrics": metrics,
                "predictions": predictions,
                "benchmarks": benchmarks,
                "weights": weights,
            },
            "figures": {name.removesuffix(".svg"): svg for name, svg in svgs.items()},
            "filters": filters_png and make_data_uri(filters_png),
            "num_shown_classes": min(len(inputs.classes), MAX_LABELED_CLASSES),
            "max_candidates": MAX_CANDIDATES,
            "format_backend": format_backend,
            "model_kb": onnx_model.stat().st_size / 1000,
            "files": {str(file): hash_file(file, "md5") for file in (weights, onnx_model)},
        }
    )
    write_text(page, html)
    write_network_page(inputs, network_page, page)
    print(f"{page}: {len(html.encode()) / 1000:,.0f} kB, and {len(svgs)} figures in {figures}")
    return {"page": str(page)}


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


def _write_figures(folder: Path, svgs: Mapping[str, str], filters_png: bytes | None) -> None:
    for name, svg in svgs.items():
        write_text(folder / name, make_standalone(svg))
    if filters_png is not None:
        write_bytes(folder / "filters.png", filters_png)
