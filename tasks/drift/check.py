"""Test new images, a folder or recorded predictions for drift, and write `reports/drift.html`.

The result for each batch of new images that is ingested (an intake) is kept beside the accepted images. The
next decision copies it into the ledger.
"""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from tasks.drift.recorded_outputs import read_outputs
from tasks.drift.shift import Drift, detect_drift, weight_reference
from tasks.incoming.label_check import load_images
from tasks.incoming.pending import ACCEPTED_DIR, INTAKES
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.params import Params
from tasks.registry import ledger
from tasks.registry.evidence import hash_own_val
from tasks.registry.serving_model import resolve_serving_model
from tasks.reporting.gallery import make_thumbnail
from tasks.reporting.page import render_page
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, PAPER, STYLE, WIDTH, render_svg_element
from tasks.workspace.errors import InputError, RunError, escape_unprintable
from tasks.workspace.files import write_text
from tasks.workspace.splits import Splits, load_splits

PAGE = "drift.html"
"""file name of the page, which is written beside the report"""
TEMPLATE = Path(__file__).with_name("page.html")
MAX_RECORDED = 2000
"""newest predictions of a file that are tested: enough by docs/drift.md, and older ones hide no new drift"""
MAX_CLASSES_SHOWN = 20
"""number of classes that a figure of the page shows"""


@dataclass(frozen=True)
class DriftCheck:
    """The result of a test for drift, and the page that shows it."""

    source: Path
    result: Drift
    classes: list[str]
    page: Path
    note: str = ""
    """how many images or predictions were left out, and why"""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return (
            f"{escape_unprintable(str(self.source))}: {self.result.describe(self.classes)}{note}: {self.page}"
        )

    def as_dict(self) -> dict[str, Any]:
        return self.result.as_dict(self.classes)


@dataclass(frozen=True)
class _Batch:
    """The model's outputs for the images that are tested."""

    outputs: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    names: list[str]
    images: list[NDArray[np.uint8]]
    """images `(S, S, 3)`; empty for recorded predictions"""
    note: str = ""


def check_drift(params: Params, source: Path | None = None) -> DriftCheck:
    """Compare the champion's outputs with those on the validation images, and write the page.

    `source` is a folder of images, by default `incoming/`, or a file of recorded predictions. A class
    directory gives its images a label; where there is one, images outside of class directories are left out.
    `RunError` without a model, or without the splits that it was trained on.
    """
    if source is not None and not source.exists():
        raise InputError(f"{source} is neither a folder of images nor a file of recorded predictions")
    file, _ = resolve_serving_model(Path(params.paths.onnx_model))
    model, data = load_model(file), load_splits(Path(params.paths.splits))
    _require_held_out(file, model, data, params.paths.splits)
    source = source or Path(params.ingest.folder)
    batch = _read_record(source, file, model) if source.is_file() else _classify_folder(source, model)
    reference, reference_labels = model.predict_proba(data.val.images.numpy()), data.val.labels.numpy()
    labels = None if batch.labels is None else (batch.labels, reference_labels)
    config = params.drift
    result = detect_drift(batch.outputs, reference, config.confidence, labels, config.min_effect)
    page = Path(params.paths.page).with_name(PAGE)
    check = DriftCheck(source, result, model.classes, page, batch.note)
    weights = np.full(len(reference), 1 / len(reference)) if labels is None else weight_reference(labels)
    html = render_page(
        {
            "result": result,
            "summary": result.describe(model.classes),
            "source": escape_unprintable(str(source)),
            "model": file,
            "tested": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
            "reference": len(reference),
            "figures": _draw(result, batch.outputs, reference, weights, model.classes),
            "outliers": [_outlier_item(i, batch, model.classes) for i in result.outliers if batch.images],
        },
        TEMPLATE,
    )
    write_text(page, html)
    return check


def _require_held_out(file: Path, model: OnnxClassifier, data: Splits, splits: str) -> None:
    """Raise `RunError` where the model may have been trained on the validation images."""
    champion = ledger.current_champion(ledger.read_ledger())
    if champion is None:
        is_same = model.metadata.get("data_md5") == data.metadata["data_md5"]
    else:
        is_same = champion.evidence.get("val_sha256", hash_own_val(data)) == hash_own_val(data)
    if not is_same or model.classes != data.metadata["classes"]:
        raise RunError(f"{file} was trained on different data than {splits}")


def _classify_folder(folder: Path, model: OnnxClassifier) -> _Batch:
    """Predict the images of a folder: those with a label, or all where none has one."""
    files = load_images(folder, model.classes, model.image_size)
    is_labeled = any(label is not None for label in files.labels)
    used = files.labeled() if is_labeled else files
    outputs = np.empty((0, len(model.classes)), np.float32)
    if used.images:
        outputs = model.predict_proba(np.stack(used.images))
    labels = np.array(used.labels, np.int64) if is_labeled else None
    note = f"left out: {used.left_out}" if used.left_out else ""
    return _Batch(outputs, labels, used.names, used.images, note)


def _read_record(file: Path, model_file: Path, model: OnnxClassifier) -> _Batch:
    """Read the newest `MAX_RECORDED` outputs in `file` that this model gave."""
    record = read_outputs(file, model_file, len(model.classes))
    left_out = {
        "older": len(record.times) - MAX_RECORDED,
        "of another model": record.num_other,
        "damaged": record.num_damaged,
    }
    note = ", ".join(f"{count:,} {name}" for name, count in left_out.items() if count > 0)
    return _Batch(
        record.probabilities[-MAX_RECORDED:],
        None,
        record.times[-MAX_RECORDED:],
        [],
        f"{note} left out" if note else "",
    )


def _draw(
    result: Drift,
    outputs: NDArray[np.float32],
    reference: NDArray[np.float32],
    weights: NDArray[np.float64],
    classes: Sequence[str],
) -> list[dict[str, str]]:
    """Draw the effects of each kind of test, and the distributions of the output that has shifted most."""
    if not result.tests:
        return []
    tested, *of_labels = result.tests
    within, proportions = (
        (", within classes", ", validation in the proportions of these images") if of_labels else ("", "")
    )
    k = tested.largest
    figures = [
        (
            f"How much the model's probability of each class differs{within}, the largest first",
            plot_effects(classes, tested.effects, result.noticeable),
        ),
        (
            f"The probability that differs most, which is that of {classes[k]}{proportions}",
            plot_distributions(classes[k], outputs[:, k], reference[:, k], weights),
        ),
        *(
            ("Classes more and less frequent than expected", plot_effects(classes, test.effects))
            for test in of_labels
        ),
    ]
    return [{"label": label, "svg": svg} for label, svg in figures]


@rc_context(STYLE)
def plot_effects(
    classes: Sequence[str], effects: NDArray[np.float64], noticeable: float | None = None
) -> str:
    """Plot the effect of each class, the largest first; effects beyond `noticeable` are drift."""
    order = np.argsort(-np.abs(effects), kind="stable")[:MAX_CLASSES_SHOWN]
    figure = Figure(figsize=(WIDTH, 0.27 * len(order) + 0.9), layout="constrained")
    axes = figure.subplots()
    rows = range(len(order))
    axes.hlines(rows, 0, effects[order], color=MUTED, linewidth=1.4)
    axes.plot(effects[order], rows, "o", color=BLUE, markersize=7)
    axes.axvline(0, color=MUTED, linewidth=1)
    if noticeable is None:
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("share in the batch less the expected share")
    else:
        axes.axvline(noticeable, color=ORANGE, linestyle="--", linewidth=1.4)
        axes.annotate(
            "drift",
            (noticeable, 1.02),
            xycoords=axes.get_xaxis_transform(),
            color=ORANGE,
            ha="right" if noticeable > np.max(effects) / 2 else "left",
        )
        axes.set_xlabel("Kolmogorov-Smirnov statistic")
    axes.set_yticks(rows, [classes[k] for k in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    return render_svg_element(figure)


@rc_context(STYLE)
def plot_distributions(
    name: str, batch: NDArray[np.float32], reference: NDArray[np.float32], weights: NDArray[np.float64]
) -> str:
    """Plot the cumulative distributions of the probability of class `name` on both sets of images.

    The images of the reference count by their `weights` `(M,)`.
    """
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    axes = figure.subplots()
    for label, values, shares, color, dash in (
        ("validation", reference, weights, INK, "--"),
        ("these images", batch, np.full(len(batch), 1 / len(batch)), BLUE, "-"),
    ):
        order = np.argsort(values, kind="stable")
        axes.step(
            np.append(values[order], 1),
            np.append(np.cumsum(shares[order]), 1),
            where="post",
            color=color,
            linestyle=dash,
            linewidth=1.7,
            label=label,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of images up to it", facecolor=PAPER)
    axes.set_xlabel(f"probability of {name}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return render_svg_element(figure)


def _outlier_item(index: int, batch: _Batch, classes: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of the image at `index`."""
    outputs = batch.outputs[index]
    return {
        **make_thumbnail(batch.images[index]),
        "name": batch.names[index],
        "actual": "" if batch.labels is None else classes[batch.labels[index]],
        "predicted": classes[outputs.argmax()],
        "confidence": float(outputs.max()),
    }


def record_intake(check: DriftCheck, params: Params) -> None:
    """Append the result to the file from which the next decision takes it."""
    file = _intakes_file(params)
    lines = file.read_text(encoding="utf-8") if file.is_file() else ""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    write_text(file, lines + json.dumps({"time": now, **check.as_dict()}) + "\n")


def read_intakes(params: Params, since: str) -> list[dict[str, Any]]:
    """Return the results for images ingested since a time, ISO 8601 in UTC; all where it is empty."""
    file = _intakes_file(params)
    if not file.is_file():
        return []
    try:
        intakes = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [intake for intake in intakes if intake["time"] > since]
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"cannot read {file}: {error}; delete it") from error


def _intakes_file(params: Params) -> Path:
    return Path(params.ingest.folder) / ACCEPTED_DIR / INTAKES
