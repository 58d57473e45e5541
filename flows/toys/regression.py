"""Regression: a neuron without activation learns a number, such as the points in an exam.

The talk's example of a continuous prediction is the points in an exam from the hours of study. The neuron is
`ŷ = w·x + b`; the mean squared error tells how far it is, and gradient descent improves w and b. Least
squares finds the same line at once, without steps: it is the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter
from pydantic import Field

from flows.run.tables import Table
from flows.toys.base import (
    BoundedFloat,
    PositiveFloat,
    PositiveInt,
    create_figure,
    format_number,
    present,
    toy_flow,
    toy_task,
)
from tasks.reporting.svg import BLUE, MUTED, ORANGE, STYLE, render_svg

Numbers = Annotated[Sequence[BoundedFloat], Field(min_length=2, max_length=40)]
HOURS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
POINTS = (12.0, 21.0, 25.0, 38.0, 41.0, 55.0, 58.0, 71.0, 72.0, 85.0)


@dataclass(frozen=True)
class Line:
    """The neuron `ŷ = w·x + b`."""

    w: float
    b: float


@toy_task
def predict(x: Sequence[float], line: Line) -> list[float]:
    return [line.w * value + line.b for value in x]


@toy_task
def mean_squared_error(y: Sequence[float], predictions: Sequence[float]) -> float:
    """Compute `J = 1/n Σ (y - ŷ)²`; there must be as many predictions as targets."""
    if len(y) != len(predictions):
        raise ValueError(f"{len(y)} points need as many hours, not {len(predictions)}")
    return sum((target - value) ** 2 for target, value in zip(y, predictions, strict=True)) / len(y)


@toy_task
def gradient(x: Sequence[float], y: Sequence[float], line: Line) -> Line:
    """Compute `∂J/∂w = -2/n Σ (y - ŷ)·x` and `∂J/∂b = -2/n Σ (y - ŷ)`."""
    errors = [target - (line.w * value + line.b) for value, target in zip(x, y, strict=True)]
    along = sum(error * value for error, value in zip(errors, x, strict=True))
    return Line(w=-2 / len(x) * along, b=-2 / len(x) * sum(errors))


@toy_task
def descend(x: Sequence[float], y: Sequence[float], learning_rate: float, steps: int) -> list[Line]:
    """Begin with w = b = 0 and step downhill; return the line before and after each step.

    The steps end early where the numbers grow so large that the learning rate must be too large.
    """
    lines = [Line(0.0, 0.0)]
    for _ in range(steps):
        slope = gradient(x, y, lines[-1])
        lines.append(Line(lines[-1].w - learning_rate * slope.w, lines[-1].b - learning_rate * slope.b))
        if max(abs(lines[-1].w), abs(lines[-1].b)) > 1e12:
            break
    return lines


@toy_task
def fit_least_squares(x: Sequence[float], y: Sequence[float]) -> Line:
    """Find the line with the smallest J at once: `w = cov(x, y) / var(x)`, `b = mean(y) - w·mean(x)`."""
    if len(set(x)) < 2:
        raise ValueError("all hours are the same: any slope fits them")
    center = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - center[0]) * (b - center[1]) for a, b in zip(x, y, strict=True))
    w = covariance / sum((a - center[0]) ** 2 for a in x)
    return Line(w, center[1] - w * center[0])


@toy_flow
def regression(
    hours: Numbers = HOURS,
    points: Numbers = POINTS,
    learning_rate: PositiveFloat = 0.02,
    steps: PositiveInt = 500,
    hours_asked: BoundedFloat = 7.5,
) -> float:
    """Fit a line to hours of study and points in the exam, step by step and at once.

    Args:
        hours: x, one number per student
        points: y, one number per student
        learning_rate: α; with these hours it must be below 0.025
        steps: the number of steps downhill
        hours_asked: the hours for which to predict the points
    """
    start = mean_squared_error(points, predict(hours, Line(0.0, 0.0)))
    lines = descend(hours, points, learning_rate, steps)
    learned, best = lines[-1], fit_least_squares(hours, points)
    losses = [mean_squared_error(points, predict(hours, line)) for line in (learned, best)]
    (answer,) = predict([hours_asked], learned)

    table = Table(
        ["line", "w", "b", "J"],
        [
            ("before the first step", 0.0, 0.0, start),
            (f"after {len(lines) - 1} steps", learned.w, learned.b, losses[0]),
            ("least squares", best.w, best.b, losses[1]),
        ],
    )
    takeaways = [
        f"{hours_asked:g} hours give {answer:.4g} points; an hour more is worth {learned.w:.3g}.",
        f"The steps are {losses[0] - losses[1]:.2g} above the smallest J, which least squares finds at once.",
        "There is no activation: the output may be any number, which a probability may not.",
    ]
    present("regression", [table], takeaways, plot(hours, points, lines, best))
    return answer


@rc_context(STYLE)
def plot(hours: Sequence[float], points: Sequence[float], lines: Sequence[Line], best: Line) -> str:
    """Draw the points with some of the lines on the way, and J by step."""
    figure, (lines_ax, loss_ax) = create_figure(2.9, columns=(1.3, 1))
    ends = np.array([min(hours), max(hours)])
    last = len(lines) - 1
    for number, step in enumerate(sorted({0, last // 100, last // 10, last})):
        line = lines[step]
        final = step == last
        lines_ax.plot(
            ends,
            line.w * ends + line.b,
            color=BLUE if final else MUTED,
            linewidth=2 if final else 1,
            linestyle="-" if final else (0, (4, 1 + number)),
        )
    lines_ax.plot(ends, best.w * ends + best.b, color=ORANGE, linestyle=":", linewidth=2.4)
    lines_ax.plot(hours, points, "o", color=BLUE, markersize=5)
    spread = max(points) - min(points) or 1.0
    lines_ax.set(
        xlabel="hours x",
        ylabel="points y",
        ylim=(min(points) - 0.3 * spread, max(points) + 0.3 * spread),
        title=f"learned: {format_number(lines[-1].w)}·x + {format_number(lines[-1].b)}",
    )
    lines_ax.title.set_size(10)
    losses = [float(np.mean((np.array(points) - line.w * np.array(hours) - line.b) ** 2)) for line in lines]
    loss_ax.plot(range(len(losses)), losses, color=BLUE)
    loss_ax.set(xlabel="step", yscale="log", title="loss J")
    loss_ax.title.set_size(10)
    loss_ax.minorticks_off()
    loss_ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return render_svg(figure)


if __name__ == "__main__":
    regression.fn()
