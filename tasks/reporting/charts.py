"""Draw the report's charts; each can be read without color."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, PAPER, STYLE, WIDTH, render_svg_element

MAX_LABELED_CLASSES = 20


@rc_context(STYLE)
def plot_history(
    rows: Sequence[Mapping[str, float]], quantity: str, best_epoch: int, *, percent: bool = False
) -> str:
    """Plot `loss` or `accuracy` of training and validation by epoch; `best_epoch` was kept."""
    epochs = [int(row["epoch"]) for row in rows]
    train, val = ([row[f"{split}_{quantity}"] for row in rows] for split in ("train", "val"))
    figure, axes = _figure(height=2.7)
    axes.plot(epochs, train, color=ORANGE, linestyle="--", marker="s", markersize=3, linewidth=1.6)
    axes.plot(epochs, val, color=BLUE, marker="o", markersize=3.5, linewidth=1.8)
    axes.axvline(best_epoch, color=MUTED, linewidth=1, linestyle=":")
    axes.annotate(
        f"best: epoch {best_epoch}",
        (best_epoch, 1.02),
        xycoords=axes.get_xaxis_transform(),
        ha="right" if best_epoch > np.mean(epochs) else "left",
        color=MUTED,
    )
    last = {"training": (train[-1], ORANGE), "validation": (val[-1], BLUE)}
    low, high = axes.get_ylim()
    apart = abs(train[-1] - val[-1]) > 0.08 * (high - low)
    for name, (value, color) in last.items():
        above = value >= max(train[-1], val[-1])
        axes.annotate(
            name,
            (epochs[-1], value),
            xytext=(6, 0 if apart else (6 if above else -6)),
            textcoords="offset points",
            va="center",
            color=color,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return render_svg_element(figure)


@rc_context(STYLE)
def plot_confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Plot `counts` `(actual, predicted)` with numbers in the cells, tinted by their share of the row.

    Of more than `MAX_LABELED_CLASSES` classes only the tint is shown. It follows the square root of the
    share, since small shares could not be seen otherwise.
    """
    figure, axes = _figure(height=WIDTH)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    if len(classes) > MAX_LABELED_CLASSES:
        tints = LinearSegmentedColormap.from_list("share", [PAPER, BLUE])
        axes.imshow(np.sqrt(shares), cmap=tints, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        return render_svg_element(figure)
    for (row, column), share in np.ndenumerate(shares):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=BLUE, alpha=float(share), linewidth=0)
        )
        axes.text(
            column,
            row,
            str(counts[row, column] or ""),
            ha="center",
            va="center",
            fontsize=8.5,
            color=PAPER if share > 0.5 else INK,
            fontweight="bold" if row == column else "normal",
        )
    axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    return render_svg_element(figure)


@rc_context(STYLE)
def plot_precision_and_recall(
    classes: Sequence[str], precision: Sequence[float], recall: Sequence[float]
) -> str:
    """Plot precision and recall of each class, in the given order from top to bottom."""
    figure, axes = _figure(height=0.27 * len(classes) + 0.9)
    rows = range(len(classes))
    axes.hlines(rows, np.minimum(precision, recall), np.maximum(precision, recall), color=MUTED, linewidth=1)
    axes.plot(recall, rows, "o", color=BLUE, markersize=7, label="recall")
    axes.plot(
        precision, rows, "s", color=ORANGE, markerfacecolor=PAPER, markersize=6, label="precision", mew=1.6
    )
    axes.set_yticks(rows, classes)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(axes)
    return render_svg_element(figure)


@rc_context(STYLE)
def plot_calibration(
    confidence: NDArray[np.float64], accuracy: NDArray[np.float64], count: NDArray[np.int64]
) -> str:
    """Plot accuracy and number of images by confidence: one value of each per bin that is not empty."""
    figure, axes = _figure(height=3.9, rows=(3, 1))
    top, bottom = axes
    top.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    top.annotate("ideal", (0.9, 0.9), xytext=(0, 8), textcoords="offset points", ha="right", color=MUTED)
    top.plot(confidence, accuracy, "o-", color=BLUE, linewidth=1.6, markersize=5)
    top.set_ylabel("accuracy")
    top.tick_params(labelbottom=False)
    width = 0.8 / len(count)
    bottom.bar(confidence, count / count.sum(), width=width, color=MUTED)
    bottom.set_ylabel("images")
    bottom.set_xlabel("confidence: probability of the predicted class")
    for part in axes:
        part.set_xlim(0, 1)
        part.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        part.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set_ylim(0, 1)
    return render_svg_element(figure)


@dataclass(frozen=True)
class ThroughputSeries:
    """The throughput of one backend by batch size: the median of the rounds and its confidence interval."""

    label: str
    batch_sizes: Sequence[int]
    images_per_second: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


# One color per backend; its second form (int8, or TorchScript beside PyTorch) is dashed and hollow.
LINE_STYLES = [(BLUE, "o"), (ORANGE, "s"), (INK, "D"), (MUTED, "^")]


@rc_context(STYLE)
def plot_throughput(groups: Sequence[Sequence[ThroughputSeries]]) -> str:
    """Plot images per second by batch size, both logarithmic, with intervals; a group shares a color."""
    figure, axes = _figure(height=4.4)
    for (color, marker), group in zip(cycle(LINE_STYLES), groups, strict=False):
        for series, dash, face in zip(group, ("-", "--", ":"), (color, PAPER, PAPER), strict=False):
            axes.fill_between(
                series.batch_sizes, series.low, series.high, color=color, alpha=0.12, linewidth=0
            )
            axes.plot(
                series.batch_sizes,
                series.images_per_second,
                color=color,
                linestyle=dash,
                marker=marker,
                markerfacecolor=face,
                markersize=5.5,
                linewidth=1.7,
                label=series.label,
            )
    sizes = sorted({size for group in groups for series in group for size in series.batch_sizes})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("batch size")
    axes.set_ylabel("images per second")
    _legend(axes, columns=2)
    return render_svg_element(figure)


@rc_context(STYLE)
def plot_latency(
    labels: Sequence[str], p50: Sequence[float], p90: Sequence[float], p99: Sequence[float]
) -> str:
    """Plot the latency of calls in ms, from the median to the 99th percentile, on a logarithmic scale."""
    figure, axes = _figure(height=0.27 * len(labels) + 0.9)
    rows = range(len(labels))
    axes.hlines(rows, p50, p99, color=MUTED, linewidth=1.4)
    axes.plot(p50, rows, "o", color=BLUE, markersize=7, label="p50")
    axes.plot(p90, rows, "|", color=INK, markersize=10, mew=1.6, label="p90")
    axes.plot(p99, rows, "s", color=ORANGE, markerfacecolor=PAPER, markersize=6, mew=1.6, label="p99")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(rows, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("milliseconds per call")
    _legend(axes)
    return render_svg_element(figure)


def _figure(height: float, rows: tuple[int, ...] = (1,)) -> Any:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(len(rows), height_ratios=rows)


def _legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, handletextpad=0.2)
