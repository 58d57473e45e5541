"""Underfitting, sweet spot, overfitting (slide "General Approach: Machine Learning").

Polynomials of growing degree are fitted to a few noisy points. The training error only falls; the validation
error falls, then rises. Where it is smallest is the sweet spot: found on validation data, and measured once
on testing data, as the slide has it. What to do at either end is in the slide's words.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from pydantic import Field
from torch import Generator, Tensor

from flows.toys.base import NonNegativeFloat, Table, publish, toy_flow, toy_task
from flows.toys.style import BLUE, INK, MUTED, ORANGE, STYLE, WIDTH, render_svg
from models.toys.fit import Fit, fit_polynomial, mean_squared_error, predict, sample_points, select_best
from tasks.params.types import Seed

Points = tuple[Tensor, Tensor]
SampleSize = Annotated[int, Field(ge=2, le=10_000)]


@toy_task
def make_data(sizes: tuple[int, int, int], noise: float, seed: int) -> tuple[Points, Points, Points]:
    """Training Data, Validation Data, Testing Data"""
    generator = Generator().manual_seed(seed)
    train, val, test = (sample_points(size, noise, generator) for size in sizes)
    return train, val, test


@toy_task
def fit_all(max_degree: int, train: Points, val: Points) -> list[Fit]:
    return [fit_polynomial(degree, train, val) for degree in range(max_degree + 1)]


@toy_task
def select_model(fits: Sequence[Fit]) -> Fit:
    """By the validation error."""
    return select_best(fits)


@toy_task
def test_error(best: Fit, test: Points) -> float:
    return mean_squared_error(best.coefficients, test)


@toy_task
def fit_with_more_data(degree: int, size: int, noise: float, val: Points, seed: int) -> Fit:
    """The talk's "get even more data!": the same capacity, ten times the training points."""
    return fit_polynomial(degree, sample_points(10 * size, noise, Generator().manual_seed(seed)), val)


@toy_flow
def fit(
    train_points: SampleSize = 20,
    val_points: SampleSize = 60,
    test_points: SampleSize = 60,
    noise: NonNegativeFloat = 0.25,
    max_degree: Annotated[int, Field(ge=2, le=60)] = 14,
    seed: Seed = 0,
) -> int:
    """Training and validation error over the capacity of a polynomial.

    Args:
        train_points: number of training points
        val_points: number of validation points, which choose the degree
        test_points: number of testing points, which measure the chosen degree
        noise: standard deviation of the points' noise
        max_degree: the largest capacity
        seed: of the points
    """
    train, val, test = make_data((train_points, val_points, test_points), noise, seed)
    fits = fit_all(max_degree, train, val)
    best = select_model(fits)
    final_error = test_error(best, test)
    more_data = fit_with_more_data(max_degree, train_points, noise, val, seed + 1)

    table = Table(
        ["degree", "training error", "validation error", ""],
        [(str(f.degree), f"{f.train_error:.4f}", f"{f.val_error:.4g}", _regime(f, best)) for f in fits],
    )
    ends = Table(
        ["end", "sign of it", "what the talk advises"],
        [
            ("underfitting, high bias", "both errors large", "feature engineering !; adjust #epochs"),
            (
                "overfitting, high variance",
                "validation error only",
                "get even more data!; reduce feature dimension",
            ),
        ],
    )
    before, after = fits[-1].val_error, more_data.val_error
    takeaways = [
        f"The sweet spot, by validation data, is degree {best.degree}; on testing data: {final_error:.3g}.",
        f"Even more data, ten times as much: degree {max_degree} has {after:.3g} instead of {before:.3g}.",
    ]
    publish("fit", [table, ends], takeaways, plot(fits, best, train))
    return best.degree


def _regime(fit: Fit, best: Fit) -> str:
    if fit.degree == best.degree:
        return "sweet spot"
    return "underfitting" if fit.degree < best.degree else "overfitting"


@rc_context(STYLE)
def plot(fits: Sequence[Fit], best: Fit, train: Points) -> str:
    """SVG: both errors by degree, and three of the fits over the training points."""
    examples = [("underfitting", fits[min(1, best.degree)]), ("sweet spot", best), ("overfitting", fits[-1])]
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    cells = figure.add_gridspec(2, len(examples), height_ratios=(1.25, 1))
    _plot_errors(figure.add_subplot(cells[0, :]), fits, best)
    x, y = train[0].tolist(), train[1].tolist()
    margin = 0.3 * (max(y) - min(y))
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for column, (name, fit) in enumerate(examples):
        panel = figure.add_subplot(cells[1, column])
        panel.plot(x, y, "o", color=INK, markersize=3.5)
        panel.plot(grid.tolist(), predict(fit.coefficients, grid).tolist(), color=BLUE, linewidth=2)
        panel.set_title(f"{name}: degree {fit.degree}", fontsize=10)
        panel.set(ylim=(min(y) - margin, max(y) + margin), xticks=[], yticks=[])
    return render_svg(figure)


def _plot_errors(axes: Axes, fits: Sequence[Fit], best: Fit) -> None:
    degrees = [fit.degree for fit in fits]
    train, val = [fit.train_error for fit in fits], [fit.val_error for fit in fits]
    axes.axvline(best.degree, color=MUTED, linewidth=1, linestyle=":")
    axes.plot(degrees, train, color=ORANGE, linestyle="--", marker="s", markersize=4, linewidth=1.8)
    axes.plot(degrees, val, color=BLUE, marker="o", markersize=5, linewidth=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    last_train, last_val = max(train[-1], low), max(val[-1], low)
    # Where the two curves end close to each other, their labels are moved apart.
    shift = 7 if abs(np.log(last_train / last_val)) < 0.08 * np.log(high / low) else 0
    for name, error, other, color in (
        ("training", last_train, last_val, ORANGE),
        ("validation", last_val, last_train, BLUE),
    ):
        axes.annotate(
            name,
            (degrees[-1], error),
            xytext=(8, shift if (error, color) > (other, ORANGE) else -shift),
            textcoords="offset points",
            va="center",
            color=color,
        )
    axes.annotate(
        f"sweet spot: degree {best.degree}",
        (best.degree, 1.03),
        xycoords=axes.get_xaxis_transform(),
        ha="center" if 0 < degrees.index(best.degree) < len(degrees) - 1 else "left",
        color=MUTED,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="capacity: degree of the polynomial", ylabel="mean squared error")


if __name__ == "__main__":
    fit.fn()
