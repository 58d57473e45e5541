"""The stage `report`: the run as one page that a person opens, and its figures as files."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import nn

from tasks.inference.backends import Backend
from tasks.inference.onnx_classifier import CPU, load_model
from tasks.registry.ledger import read_ledger
from tasks.reporting import charts as draw
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.classifier import Classifier
    from tasks.params import EvaluateConfig, ReportConfig

TEMPLATE = Path(__file__).parent / "reporting" / "page.html"
SHOWN_DECISIONS = 10
ENGINES = {
    "onnxruntime": "ONNX Runtime",
    "pytorch": "PyTorch",
    "torchscript": "TorchScript",
    "openvino": "OpenVINO",
}
COLOR_GROUPS = {"torchscript": "pytorch"}  # drawn in the same color
MAX_ACCURACY_DROP = 0.005  # of accuracy, for the sake of speed


def report(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    history: Path,
    metrics: Path,
    confusion: Path,
    benchmarks: Path,
    page: Path,
    figures: Path,
    evaluate: EvaluateConfig,
    config: ReportConfig,
) -> dict[str, Any]:
    """Write the `figures` (SVG and PNG) and the `page`, which holds them: one file that needs no other.

    Equal inputs give equal bytes. The pictures in the galleries are judged by the exported model, on the test
    split.
    """
    data = load_splits(splits)
    classes: list[str] = data.metadata["classes"]
    classifier, about = load_classifier(weights)
    model = load_model(onnx_model)
    epochs, results, benchmark = _read_history(history), _read_json(metrics), _read_json(benchmarks)
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    probabilities = model.predict_proba(images)
    counts = _read_confusion(confusion, classes)

    drawn = _draw_curves(epochs, about["epoch"])
    drawn["confusion.svg"] = draw.confusion_matrix(counts, classes)
    test = results["test"]
    ranked = sorted(classes, key=lambda name: -test["per_class"][name]["f1"])
    drawn["classes.svg"] = draw.per_class(
        ranked, *([test["per_class"][name][what] for name in ranked] for what in ("precision", "recall"))
    )
    drawn["calibration.svg"] = draw.calibration(
        *calibration_bins(probabilities, labels, evaluate.calibration_bins)
    )
    drawn |= _draw_benchmark(benchmark["results"])
    filters_png = _render_filters(classifier, images[_most_confident_correct(probabilities, labels)])
    _write_figures(figures, drawn, filters_png)

    mistakes, correct = select_gallery(probabilities, labels, config.gallery_size)
    values = {
        "theme": Markup(draw.theme_css(":root")),  # noqa: S704 - colors
        "page": page,
        "about": about,
        "results": results,
        "too_sure": float(probabilities.max(1).mean()) - test["accuracy"],
        "classes": ranked,
        "epochs": epochs,
        "verdict": diagnose_fit(epochs, about["epoch"]),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "parameters": sum(tensor.numel() for tensor in classifier.network.parameters()),
        "model_kb": onnx_model.stat().st_size / 1000,
        "sizes": {name: len(getattr(data, name).labels) for name in ("train", "val", "test")},
        "figures": {name.removesuffix(".svg"): svg for name, svg in drawn.items()},
        "filters": filters_png and _data_uri(filters_png),
        "confusions": _top_confusions(counts, classes),
        "mistakes": _gallery_items(mistakes, images, labels, probabilities, classes),
        "hits": _gallery_items(correct, images, labels, probabilities, classes),
        "benchmark": benchmark,
        "engine": _backend_label,
        "advice": recommend_backends(benchmark["results"]),
        "names": {
            Backend(row["engine"], row["precision"], row["provider"]).name: _backend_label(row)
            for row in benchmark["results"]
        },
        "skipped": _group_by_reason(benchmark["skipped"]),
        "int8": int8_recommendation(benchmark["results"]),
        # The ledger is no dependency: most workspaces have none, and a decision makes no report out of date.
        "decisions": read_ledger()[::-1],
        "shown_decisions": SHOWN_DECISIONS,
        "files": {str(file): _md5(file) for file in (weights, onnx_model)},
    }
    html = _template().render(values)
    with atomic_write(page) as partial:
        partial.write_text(html, encoding="utf-8")
    print(f"{page}: {len(html.encode()) / 1000:,.0f} kB, and {len(drawn)} figures in {figures}")
    return {"page": str(page)}


@dataclass(frozen=True)
class FitDiagnosis:
    """How well the network fits, in the talk's words ("underfitting, sweet spot, overfitting")."""

    name: str
    reason: str
    advice: str


MAX_TRAIN_VAL_GAP = 0.10  # how far training may be ahead of validation, in accuracy
MIN_LATE_GAIN = 0.01  # what the last third of the epochs has to bring for more of them to be worth while
MAX_VAL_LOSS_RISE = 1.02  # of the validation loss above its least, before it counts as rising


def diagnose_fit(epochs: Sequence[Mapping[str, float]], kept: int) -> FitDiagnosis:
    """Judge the kept epoch by its gap to training, and the epochs after it by the validation loss."""
    best = epochs[kept - 1]
    gap = best["train_accuracy"] - best["val_accuracy"]
    before = max(epoch["val_accuracy"] for epoch in epochs[: max(1, len(epochs) * 2 // 3)])
    gain = best["val_accuracy"] - before
    least = min(epoch["val_loss"] for epoch in epochs)
    ahead = f"Training is {100 * gap:.1f} points of accuracy ahead of validation at epoch {kept}"
    if gap > MAX_TRAIN_VAL_GAP:
        return FitDiagnosis(
            "Overfitting",
            f"{ahead}: it knows its training pictures better than pictures as such (high variance).",
            "The talk advises: get even more data (augmentation makes some of what there is), or reduce the "
            "dimension of the features, that is a smaller network.",
        )
    if kept == len(epochs) and (gain > MIN_LATE_GAIN or len(epochs) == 1):
        return FitDiagnosis(
            "Underfitting",
            f"The last epoch is the best one, and the last third of the epochs still brought "
            f"{100 * gain:.1f} points: training ended before the network learned what it can (high bias).",
            "The talk advises: adjust the learning rate and the number of epochs; if that is not enough, "
            "choose another architecture.",
        )
    if epochs[-1]["val_loss"] > MAX_VAL_LOSS_RISE * least and epochs[-1]["train_loss"] < best["train_loss"]:
        return FitDiagnosis(
            "Sweet spot, with overfitting after it",
            f"{ahead}. After it the training loss goes on falling while the validation loss rises: from "
            "there on the network learns its training pictures by heart. Those epochs were thrown away.",
            "Use this model. More epochs will not help; for a better one the talk advises more data, or "
            "another architecture.",
        )
    return FitDiagnosis(
        "Sweet spot",
        f"{ahead}, and the validation loss has not begun to rise.",
        "Use this model. For a better one the talk advises more data, or another architecture.",
    )


def calibration_bins(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, share of right answers and number of pictures, for every bin that holds any.

    The bins are those of the expected calibration error in `metrics`: of equal width, by the probability of
    the likeliest class.
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    means = [np.bincount(index, x, bins)[filled] / count[filled] for x in (confidence, right)]
    return means[0], means[1], count[filled]


def select_gallery(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the surest mistakes, surest first, and of the least sure hits, least sure first."""
    confidence = probabilities.max(1)
    wrong = probabilities.argmax(1) != labels
    surest = np.argsort(-confidence, kind="stable")
    least_sure = np.argsort(confidence, kind="stable")
    return surest[wrong[surest]][:count], least_sure[~wrong[least_sure]][:count]


def recommend_backends(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Which row answers one picture soonest, and which gets through the most, at no loss of accuracy.

    A row counts that is at most half a point of accuracy below the best.
    """
    floor = max(row["accuracy"] for row in rows) - MAX_ACCURACY_DROP
    acceptable = [row for row in rows if row["accuracy"] >= floor]
    smallest = min(row["batch_size"] for row in acceptable)
    return {
        "soonest": min(
            (row for row in acceptable if row["batch_size"] == smallest),
            key=lambda row: row["latency_ms"]["p50"],
        ),
        "most": max(acceptable, key=lambda row: row["images_per_second"]),
    }


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{file} is not there; the stage that makes it has to run first") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def _read_rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as table:
            return list(csv.DictReader(table))
    except FileNotFoundError:
        raise RunError(f"{file} is not there; the stage that makes it has to run first") from None


def _read_history(file: Path) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in _read_rows(file)]


def _read_confusion(file: Path, classes: Sequence[str]) -> NDArray[np.int64]:
    pairs = Counter((row["actual"], row["predicted"]) for row in _read_rows(file))
    return np.array([[pairs[actual, predicted] for predicted in classes] for actual in classes])


def _draw_curves(epochs: Sequence[Mapping[str, float]], kept: int) -> dict[str, str]:
    numbers = [int(epoch["epoch"]) for epoch in epochs]

    def curves(quantity: str, *, percent: bool) -> str:
        train, val = ([epoch[f"{split}_{quantity}"] for epoch in epochs] for split in ("train", "val"))
        return draw.learning_curves(numbers, train, val, kept, percent=percent)

    return {
        "loss.svg": curves("loss", percent=False),
        "accuracy.svg": curves("accuracy", percent=True),
    }


def _draw_benchmark(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    fastest: dict[tuple[str, int], Mapping[str, Any]] = {}
    """by engine and batch size, of the numbers of threads the one that does best"""
    for row in rows:
        key = _backend_label(row), row["batch_size"]
        if key not in fastest or row["images_per_second"] > fastest[key]["images_per_second"]:
            fastest[key] = row
    families: dict[tuple[str, str], list[draw.ThroughputSeries]] = {}
    for label in dict.fromkeys(label for label, _ in fastest):
        own = [row for (other, _), row in fastest.items() if other == label]
        spans = [row["images_per_second_range"] for row in own]
        line = draw.ThroughputSeries(
            label,
            [row["batch_size"] for row in own],
            [row["images_per_second"] for row in own],
            *([span[end] for span in spans] for end in (0, 1)),
        )
        family = COLOR_GROUPS.get(own[0]["engine"], own[0]["engine"]), own[0]["provider"]
        families.setdefault(family, []).append(line)
    smallest = min(row["batch_size"] for row in rows)
    single = [row for (_, size), row in fastest.items() if size == smallest]
    percentiles = ([row["latency_ms"][p] for row in single] for p in ("p50", "p90", "p99"))
    return {
        "throughput.svg": draw.throughput(list(families.values())),
        "latency.svg": draw.latency([_backend_label(row) for row in single], *percentiles),
    }


def _backend_label(row: Mapping[str, Any]) -> str:
    on = {
        "CUDAExecutionProvider": " on CUDA",
        "TensorrtExecutionProvider": " on TensorRT",
        "cuda": " on CUDA",
    }
    name = ENGINES.get(row["engine"], row["engine"])
    return f"{name} {row['precision']}{on.get(row['provider'], '')}"


def _group_by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in skipped.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def int8_recommendation(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether int8 pays off on ONNX Runtime, in a sentence; None where it was not measured."""
    best: dict[tuple[str, bool], float] = {}
    accuracy: dict[str, float] = {}
    smallest = min(row["batch_size"] for row in rows)
    for row in rows:
        if row["engine"] == "onnxruntime" and row["provider"] == CPU:
            key = row["precision"], row["batch_size"] == smallest
            best[key] = max(best.get(key, 0.0), row["images_per_second"])
            accuracy[row["precision"]] = row["accuracy"]
    if accuracy.keys() < {"fp32", "int8"} or len(best) < 4:
        return None
    one, many = (best["int8", single] / best["fp32", single] for single in (True, False))
    lost = accuracy["fp32"] - accuracy["int8"]
    cost = f"loses {100 * lost:.2f} points of accuracy" if lost > 0 else "loses no accuracy"
    ratios = f"{one:.2f} times as fast as fp32 for one picture, {many:.2f} for many"
    speed = f"On ONNX Runtime int8 {cost} and is {ratios}"
    if lost > MAX_ACCURACY_DROP:
        return f"{speed}: too much is lost to recommend it."
    if max(one, many) <= 1:
        return f"{speed}: it is not recommended."
    if min(one, many) > 1:
        return f"{speed}: it is recommended for both."
    return f"{speed}: it is recommended for {'one' if one > 1 else 'many'} alone."


@torch.inference_mode()
def _render_filters(classifier: Classifier, picture: NDArray[np.uint8]) -> bytes | None:
    """The first convolution at work on a picture; None where there is none that takes RGB."""
    first = next((m for m in classifier.network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels != 3:
        return None
    responses = first(classifier.normalize(torch.from_numpy(picture)[None]))[0]
    return draw.filters(first.weight.numpy(), picture, responses.numpy())


def _most_confident_correct(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """The test picture that the model is surest of, and right."""
    return int((probabilities.max(1) * (probabilities.argmax(1) == labels)).argmax())


def _write_figures(folder: Path, drawn: Mapping[str, str], first: bytes | None) -> None:
    for name, svg in drawn.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(draw.standalone(svg), encoding="utf-8")
    if first is not None:
        with atomic_write(folder / "filters.png") as partial:
            partial.write_bytes(first)


def _top_confusions(
    counts: NDArray[np.int64], classes: Sequence[str], shown: int = 3
) -> list[tuple[str, str, int]]:
    """`(actual, predicted, pictures)`, commonest first."""
    off = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    order = np.argsort(-off, axis=None, kind="stable")[:shown]
    pairs = [divmod(int(index), len(classes)) for index in order]
    return [(classes[a], classes[p], int(off[a, p])) for a, p in pairs if off[a, p]]


def _gallery_items(
    indices: NDArray[np.int64],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    return [
        {
            "uri": _data_uri(draw.png(Image.fromarray(images[index]))),
            "actual": classes[labels[index]],
            "predicted": classes[probabilities[index].argmax()],
            "confidence": float(probabilities[index].max()),
            "second": classes[np.argsort(-probabilities[index], kind="stable")[1]],
            "index": int(index),
        }
        for index in indices
    ]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share, digits=1: (
        f"{100 * share:.{digits}f}\N{NARROW NO-BREAK SPACE}%"
    )
    environment.filters["number"] = lambda value, digits=0: f"{value:,.{digits}f}"
    environment.filters["inline"] = _inline_svg
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _inline_svg(svg: str, label: str) -> Markup:
    """The figure inside a page, with what it shows in words for those who do not see it."""
    return Markup(svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))  # noqa: S704 - drawn here
