"""The stage `report` renders the HTML report, and its figures as files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tasks.inference.explain import MAX_CANDIDATES
from tasks.network_page.page import write_network_page
from tasks.reporting.benchmark import format_backend
from tasks.reporting.charts import MAX_LABELED_CLASSES
from tasks.reporting.gallery import make_data_uri
from tasks.reporting.page import render_page
from tasks.reporting.report_page import draw_figures, judge_results, read_inputs
from tasks.reporting.svg import make_standalone
from tasks.workspace.files import hash_file, write_bytes, write_text

if TYPE_CHECKING:
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
    for name, svg in svgs.items():
        write_text(figures / name, make_standalone(svg))
    if filters_png is not None:
        write_bytes(figures / "filters.png", filters_png)
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
