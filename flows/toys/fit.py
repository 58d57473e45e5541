"""Underfitting, sweet spot, overfitting (slide "General Approach: Machine Learning").

Polynomials of growing degree are fitted to a few noisy points. The training error only falls; the validation
error falls, then rises. Where it is smallest is the sweet spot: it is found on validation data, and measured
once on testing data, as the slide has it. The advice for either end is in the slide's words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from pydantic import AfterValidator, Field, ValidationInfo
from torch import Generator, Tensor

from flows.run.tables import Table
from flows.toys.base import WIDTH, NonNegativeFloat, present, toy_flow, toy_task
from tasks.params.types import Seed
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, STYLE, render_svg

Points = tuple[Tensor, Tensor]
SampleSize = Annotated[int, Field(ge=2, le=10_000)]

PERFECT = 0.001  # a fit that misses less than this share of the targets' variance needs no better one


def _validate_degree(degree: int, info: ValidationInfo) -> int:
    train_points = info.data.get("train_points", degree + 1)
    if train_points <= degree:
        raise ValueError(f"degree {degree} needs more than {degree} train_points, not {train_points}")
    return degree


Degree = Annotated[int, Field(ge=2, le=60, validate_default=True), AfterValidator(_validate_degree)]


@dataclass(frozen=True)
class Fit:
    """A polynomial of one degree that was fitted to the training points."""

    degree: int
    coefficients: Tensor
    """the factors `(degree + 1,)` of the Chebyshev polynomials T_0, T_1, …"""
    train_error: float
    val_error: float
    """The errors are mean squared errors."""


def sample_points(count: int, noise: float, generator: Generator) -> Points:
    """Draw points of a sine with noise: x `(count,)`, one in each `count`-th of -1 to 1, and y `(count,)`.

    Both are float64.
    """
    x = 2 * (torch.arange(count) + torch.rand(count, dtype=torch.float64, generator=generator)) / count - 1
    return x, true_function(x) + noise * torch.randn(count, dtype=torch.float64, generator=generator)


def true_function(x: Tensor) -> Tensor:
    """Compute the curve without noise, `sin(πx)`."""
    return torch.sin(torch.pi * x)


def chebyshev_features(x: Tensor, degree: int) -> Tensor:
    """Compute `(N, degree + 1)`: T_0(x), T_1(x), …

    They span the same polynomials as the powers of x, with smaller rounding errors.
    """
    features = [torch.ones_like(x), x]
    while len(features) <= degree:
        features.append(2 * x * features[-1] - features[-2])
    return torch.stack(features[: degree + 1], 1)


def predict(coefficients: Tensor, x: Tensor) -> Tensor:
    return chebyshev_features(x, len(coefficients) - 1) @ coefficients


def squared_errors(coefficients: Tensor, points: Points) -> Tensor:
    """Compute `(ŷ - y)²` of the polynomial at each point."""
    x, y = points
    return (predict(coefficients, x) - y).square()


@toy_task
def make_data(sizes: tuple[int, int, int], noise: float, seed: int) -> tuple[Points, Points, Points]:
    """Draw the slide's Training Data, Validation Data and Testing Data."""
    generator = Generator().manual_seed(seed)
    train, val, test = (sample_points(size, noise, generator) for size in sizes)
    return train, val, test


def fit_polynomial(degree: int, train: Points, val: Points) -> Fit:
    """Fit by least squares; the degree must be at least 0 and below the number of training points."""
    if degree < 0:
        raise ValueError(f"the degree should be at least 0, not {degree}")
    if len(train[0]) <= degree:
        raise ValueError(f"degree {degree} needs more than {degree} training points, not {len(train[0])}")
    coefficients = torch.linalg.lstsq(chebyshev_features(train[0], degree), train[1][:, None]).solution[:, 0]
    train_error, val_error = (squared_errors(coefficients, points).mean().item() for points in (train, val))
    return Fit(degree, coefficients, train_error, val_error)


@toy_task
def fit_all(max_degree: int, train: Points, val: Points) -> list[Fit]:
    return [fit_polynomial(degree, train, val) for degree in range(max_degree + 1)]


@toy_task
def select_best(fits: Sequence[Fit]) -> Fit:
    """Select the fit with the smallest validation error; of equals, the one with the lowest degree."""
    return min(fits, key=lambda fit: (fit.val_error, fit.degree))


@toy_task
def label_fits(fits: Sequence[Fit], best: Fit, val: Points) -> list[str]:
    """Name the regime of each fit, in the order of their degrees.

    A fit is about as good as the best if the difference cannot be told from noise, that is, if its validation
    error is within one standard error of the smallest, or next to nothing of the targets' variance.
    """
    errors = squared_errors(best.coefficients, val)
    standard_error = (errors.std() / len(errors) ** 0.5).item()
    limit = max(best.val_error + standard_error, PERFECT * val[1].var().item())

    def label(fit: Fit) -> str:
        if fit.degree == best.degree:
            return "sweet spot"
        if fit.val_error <= limit:
            return "about as good"
        return "underfitting" if fit.degree < best.degree else "overfitting"

    return [label(fit) for fit in fits]


@toy_task
def measure_test_error(best: Fit, test: Points) -> float:
    return squared_errors(best.coefficients, test).mean().item()


@toy_task
def fit_with_more_data(degree: int, size: int, noise: float, val: Points, seed: int) -> Fit:
    """Follow the talk's advice "get even more data!": the same capacity, ten times the training points."""
    return fit_polynomial(degree, sample_points(10 * size, noise, Generator().manual_seed(seed)), val)


@toy_flow
def fit(
    train_points: SampleSize = 20,
    val_points: SampleSize = 60,
    test_points: SampleSize = 60,
    noise: NonNegativeFloat = 0.25,
    max_degree: Degree = 14,
    seed: Seed = 0,
) -> int:
    """Compare training and validation error over the capacity of a polynomial.

    Args:
        train_points: the number of training points
        val_points: the number of validation points, which choose the degree
        test_points: the number of testing points, which measure the chosen degree
        noise: the standard deviation of the points' noise
        max_degree: the largest degree, that is, the largest capacity
        seed: the seed of the points
    """
    train, val, test = make_data((train_points, val_points, test_points), noise, seed)
    fits = fit_all(max_degree, train, val)
    best = select_best(fits)
    regimes = label_fits(fits, best, val)
    final_error = measure_test_error(best, test)
    more_data = fit_with_more_data(max_degree, train_points, noise, val, seed + 1)

    table = Table(
        ["degree", "training error", "validation error", ""],
        [
            (str(f.degree), f"{f.train_error:.4f}", f"{f.val_error:.4g}", regime)
            for f, regime in zip(fits, regimes, strict=True)
        ],
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
        (
            "A fit is about as good if its validation error is within one standard error of the smallest, "
            f"or below {PERFECT:.1%} of the targets' variance."
        ),
        f"Even more data, ten times as much: degree {max_degree} has {after:.3g} instead of {before:.3g}.",
    ]
    present("fit", [table, ends], takeaways, plot(fits, regimes, best, train))
    return best.degree


@rc_context(STYLE)
def plot(fits: Sequence[Fit], regimes: Sequence[str], best: Fit, train: Points) -> str:
    """Draw both errors by degree, and three of the fits over the training points."""
    examples = [fits[min(1, best.degree)], best, fits[-1]]
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    cells = figure.add_gridspec(2, len(examples), height_ratios=(1.25, 1))
    _plot_errors(figure.add_subplot(cells[0, :]), fits, best)
    x, y = train[0].tolist(), train[1].tolist()
    margin = 0.3 * (max(y) - min(y))
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for column, fit in enumerate(examples):
        panel = figure.add_subplot(cells[1, column])
        panel.plot(x, y, "o", color=INK, markersize=3.5)
        panel.plot(grid.tolist(), predict(fit.coefficients, grid).tolist(), color=BLUE, linewidth=2)
        panel.set_title(f"{regimes[fit.degree]}: degree {fit.degree}", fontsize=10)
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
