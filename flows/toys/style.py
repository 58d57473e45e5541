"""What the toys' figures share: the report's style, sizes, and the parts of a diagram."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, PAPER, STYLE, render_svg

__all__ = ["BLUE", "INK", "MUTED", "ORANGE", "PAPER", "STYLE", "render_svg"]

WIDTH = 7.2  # inches
Values = NDArray[np.float64]


def create_figure(height: float, *, rows: Sequence[float] = (1,), columns: Sequence[float] = (1,)) -> Any:
    """A figure `height` inches high and its axes; `rows` and `columns` are ratios of heights and widths."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(len(rows), len(columns), height_ratios=rows, width_ratios=columns)


def format_number(value: float) -> str:
    """Three significant digits, with a typographic minus sign."""
    return f"{value:.3g}".replace("-", "−")


def draw_node(axes: Axes, at: tuple[float, float], text: str, *, size: float = 34, color: str = INK) -> None:
    axes.plot(*at, "o", markersize=size, markerfacecolor=PAPER, markeredgecolor=color, markeredgewidth=1.4)
    axes.text(*at, text, ha="center", va="center", fontsize=9, color=color, linespacing=1.1)


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 17, "shrinkB": 21, "lw": 1.1}
    axes.annotate("", end, start, arrowprops=arrow)
