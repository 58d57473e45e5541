"""Draw the figures of `reports/drift.html`."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, PAPER, STYLE, WIDTH, render_svg_element

MAX_CLASSES_SHOWN = 20


@rc_context(STYLE)
def plot_effects(
    classes: Sequence[str], effects: NDArray[np.float64], noticeable: float | None = None
) -> str:
    """Plot the effect of each class, the largest first; effects beyond `noticeable` are significant."""
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
            "significant",
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
