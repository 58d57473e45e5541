"""The report's figures as SVG, each readable in light and dark, without color, and on a phone.

Colors are drawn as those of the light theme and then replaced by CSS variables: a figure of its own (in the
README, in `dvc plots`) brings both themes with it, one inside a page takes the page's.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

LIGHT = {"ink": "#1b2230", "muted": "#5a6473", "line": "#d8dde5", "paper": "#fdfdfe", "blue": "#2361b5"}
LIGHT |= {"orange": "#b4530a"}
DARK = {"ink": "#e7eaf0", "muted": "#a0a9b8", "line": "#323a49", "paper": "#12161e", "blue": "#7db2ff"}
DARK |= {"orange": "#ffac5c"}
INK, MUTED, LINE, PAPER, BLUE, ORANGE = LIGHT.values()

WIDTH = 340 / 72  # inches: the width of a phone's screen, so that text keeps its size there
STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # what matplotlib brings, to measure by; shown in the reader's own
    "svg.fonttype": "none",
    "svg.hashsalt": "cifarflow",  # equal figures, equal bytes
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


def theme_css(selector: str) -> str:
    """The variables of both themes, for the elements that `selector` selects."""

    def declared(theme: dict[str, str]) -> str:
        return f"{selector}{{{''.join(f'--{name}:{value};' for name, value in theme.items())}}}"

    return f"{declared(LIGHT)}@media (prefers-color-scheme:dark){{{declared(DARK)}}}"


def standalone(svg: str) -> str:
    """The figure as a file of its own, with its own background: a dark page may show it, or a light one."""
    style = f"<style>{theme_css(':root')}:root{{background:var(--paper)}}</style>"
    return svg.replace(">", f">{style}", 1) + "\n"


def render_svg(figure: Figure) -> str:
    """The SVG of a figure as a file of its own."""
    return standalone(_svg(figure))


@rc_context(STYLE)
def learning_curves(
    epochs: Sequence[int], train: Sequence[float], val: Sequence[float], best_epoch: int, *, percent: bool
) -> str:
    """One quantity by epoch, for training and validation; `kept` is the epoch whose weights were kept."""
    figure, axes = _figure(height=2.7)
    axes.plot(epochs, train, color=ORANGE, linestyle="--", marker="s", markersize=3, linewidth=1.6)
    axes.plot(epochs, val, color=BLUE, marker="o", markersize=3.5, linewidth=1.8)
    axes.axvline(best_epoch, color=MUTED, linewidth=1, linestyle=":")
    axes.annotate(
        f"kept: epoch {best_epoch}",
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
    return _svg(figure)


@rc_context(STYLE)
def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """`counts` `(actual, predicted)` with the numbers in the cells, tinted by their share of the row."""
    figure, axes = _figure(height=WIDTH)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
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
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return _svg(figure)


@rc_context(STYLE)
def per_class(classes: Sequence[str], precision: Sequence[float], recall: Sequence[float]) -> str:
    """Precision and recall of each class, in the order given, from top to bottom."""
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
    return _svg(figure)


@rc_context(STYLE)
def calibration(confidence: NDArray[np.float64], share: NDArray[np.float64], count: NDArray[np.int64]) -> str:
    """Of each bin: mean confidence, share of right answers, number of pictures; empty bins are left out."""
    figure, axes = _figure(height=3.9, rows=(3, 1))
    top, bottom = axes
    top.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    top.annotate("ideal", (0.9, 0.9), xytext=(0, 8), textcoords="offset points", ha="right", color=MUTED)
    top.plot(confidence, share, "o-", color=BLUE, linewidth=1.6, markersize=5)
    top.set_ylabel("right")
    top.tick_params(labelbottom=False)
    width = 0.8 / len(count)
    bottom.bar(confidence, count / count.sum(), width=width, color=MUTED)
    bottom.set_ylabel("pictures")
    bottom.set_xlabel("confidence of the likeliest class")
    for part in axes:
        part.set_xlim(0, 1)
        part.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        part.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set_ylim(0, 1)
    return _svg(figure)


@dataclass(frozen=True)
class ThroughputSeries:
    """One engine's numbers over some batch sizes."""

    label: str
    batch_sizes: Sequence[int]
    images_per_second: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


# Engines by color, their second form (int8, or TorchScript beside PyTorch) dashed and with a hollow marker.
LINE_STYLES = [(BLUE, "o"), (ORANGE, "s"), (INK, "D"), (MUTED, "^")]


@rc_context(STYLE)
def throughput(families: Sequence[Sequence[ThroughputSeries]]) -> str:
    """Pictures a second over the batch size, both logarithmic, with the span of the rounds.

    A family of lines shares a color.
    """
    figure, axes = _figure(height=4.4)
    for (color, marker), family in zip(cycle(LINE_STYLES), families, strict=False):
        for line, dash, face in zip(family, ("-", "--", ":"), (color, PAPER, PAPER), strict=False):
            axes.fill_between(line.batch_sizes, line.low, line.high, color=color, alpha=0.12, linewidth=0)
            axes.plot(
                line.batch_sizes,
                line.images_per_second,
                color=color,
                linestyle=dash,
                marker=marker,
                markerfacecolor=face,
                markersize=5.5,
                linewidth=1.7,
                label=line.label,
            )
    sizes = sorted({size for family in families for line in family for size in line.batch_sizes})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("pictures in a batch")
    axes.set_ylabel("pictures a second")
    _legend(axes, columns=2)
    return _svg(figure)


@rc_context(STYLE)
def latency(labels: Sequence[str], p50: Sequence[float], p90: Sequence[float], p99: Sequence[float]) -> str:
    """Milliseconds a call, from the median to the 99th percentile, on a logarithmic scale."""
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
    axes.set_xlabel("milliseconds a call")
    _legend(axes)
    return _svg(figure)


def filters(
    weights: NDArray[np.float32], picture: NDArray[np.uint8], responses: NDArray[np.float32]
) -> bytes:
    """A PNG: the picture, then each filter of the first layer above what it makes of the picture.

    `weights` `(F, 3, k, k)`, `picture` `(H, W, 3)`, `responses` `(F, h, w)`. Grey is 0; the largest value
    is the end of the scale.
    """
    cell, gap, columns = 84, 6, 4
    tiles: list[tuple[Image.Image, ...]] = [(_upscale(picture, cell),)]
    for weight, response in zip(weights, responses, strict=True):
        shown = _to_gray(weight.transpose(1, 2, 0), np.abs(weights).max())
        made = np.repeat(_to_gray(response, np.abs(responses).max())[:, :, None], 3, axis=2)
        tiles.append((_upscale(shown, cell), _upscale(made, cell)))
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGBA", (columns * (cell + gap) - gap, rows * (2 * cell + 3 * gap) - 2 * gap))
    for index, stack in enumerate(tiles):
        left, top = (index % columns) * (cell + gap), (index // columns) * (2 * cell + 3 * gap)
        for place, tile in enumerate(stack):
            sheet.paste(tile, (left, top + place * (cell + gap // 2)))
    return png(sheet)


def png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return written.getvalue()


def _to_gray(values: NDArray[np.float32], largest: float) -> NDArray[np.uint8]:
    return (127.5 + 127.5 * values / max(largest, 1e-12)).round().astype(np.uint8)


def _upscale(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def _figure(height: float, rows: tuple[int, ...] = (1,)) -> Any:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(len(rows), height_ratios=rows)


def _legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, handletextpad=0.2)


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # the same in every figure; a page holds several
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would hold for the whole page
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    for name, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{name})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
