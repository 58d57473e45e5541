"""Gradient descent (slides "Gradient Descent", "Learning Rate" and "Loss Function - Beispiel").

1. Initialize the parameters at random.
2. Repeat until convergence: compute the gradient ∇J of the loss, then update θ <- θ - α·∇J.

The loss is that of the talk's example, J(w0, b0) = (y - (x·w0 + b0))². Its minimum is a valley and not a
point: one equation does not determine two parameters, so where the descent ends depends on where it began.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from flows.run.tables import Table
from flows.toys.base import (
    WIDTH,
    BoundedFloat,
    PositiveFloat,
    PositiveInt,
    present,
    toy_flow,
    toy_task,
)
from tasks.params.types import Seed
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, STYLE, render_svg

Point = tuple[float, float]
"""(w0, b0)"""

DIVERGENCE_THRESHOLD = 1e6  # parameters beyond this have diverged
TOLERANCE = 1e-6  # a gradient whose norm is at most this has converged
MAX_POINTS = 8  # the figure shows this many points of a path that diverges


@dataclass(frozen=True)
class Trajectory:
    """The path of a gradient descent."""

    path: list[Point]
    """one point per step, from the start on"""
    outcome: Literal["converged", "not there yet", "diverged"]


Descent = tuple[float, Trajectory]
"""(learning rate, where it led)"""


def loss(parameters: Point, x: float, y: float) -> float:
    """Compute `J(w0, b0) = (y - (x·w0 + b0))²`."""
    w0, b0 = parameters
    return (y - (x * w0 + b0)) ** 2


def gradient(parameters: Point, x: float, y: float) -> Point:
    """Compute `∇J = (∂J/∂w0, ∂J/∂b0)`."""
    w0, b0 = parameters
    d_loss_d_prediction = -2 * (y - (x * w0 + b0))
    return d_loss_d_prediction * x, d_loss_d_prediction


@toy_task
def initialize(seed: int) -> Point:
    """Draw w0 and b0 uniformly from -5 to 5."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    return generator.uniform(-5, 5), generator.uniform(-5, 5)


@toy_task
def descend(
    gradient_at: Callable[[Point], Point],
    start: Point,
    learning_rate: float,
    *,
    max_steps: int,
    tolerance: float = TOLERANCE,
) -> Trajectory:
    """Repeat `θ <- θ - α·∇J` until the gradient's norm is at most `tolerance`, or a parameter has diverged.

    After `max_steps` the descent is "not there yet", or it has "diverged" if the gradient's norm is larger
    than at the start. The learning rate must be positive, and the start finite.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"the learning rate should be greater than 0, not {learning_rate}")
    if not all(map(math.isfinite, start)):
        raise ValueError(f"the descent should start at finite numbers, not {start}")
    path = [start]
    gradient_norms = [math.hypot(*gradient_at(start))]
    while gradient_norms[-1] > tolerance and len(path) <= max_steps:
        w0, b0 = path[-1]
        grad_w0, grad_b0 = gradient_at(path[-1])
        path.append((w0 - learning_rate * grad_w0, b0 - learning_rate * grad_b0))
        if not max(map(abs, path[-1])) <= DIVERGENCE_THRESHOLD:
            return Trajectory(path, "diverged")
        gradient_norms.append(math.hypot(*gradient_at(path[-1])))
    if gradient_norms[-1] <= tolerance:
        return Trajectory(path, "converged")
    return Trajectory(path, "diverged" if gradient_norms[-1] > gradient_norms[0] else "not there yet")


@toy_flow
def gradient_descent(
    x: BoundedFloat = 2.0,
    y: BoundedFloat = 7.0,
    lr_too_small: PositiveFloat = 0.001,
    lr_good: PositiveFloat = 0.03,
    lr_too_large: PositiveFloat = 0.21,
    max_steps: PositiveInt = 60,
    seed: Seed = 1,
) -> dict[float, str]:
    """Repeat θ <- θ - α·∇J with three learning rates, from the same random start.

    Args:
        x: the example's input
        y: the example's target
        lr_too_small: a learning rate α that is too small to converge in time
        lr_good: a learning rate that converges
        lr_too_large: a learning rate that diverges; here, all above 1 / (x² + 1) do
        max_steps: the number of updates after which to stop
        seed: the seed of the random start
    """
    start = initialize(seed)
    descents = [
        (rate, descend(partial(gradient, x=x, y=y), start, rate, max_steps=max_steps))
        for rate in (lr_too_small, lr_good, lr_too_large)
    ]

    table = Table(
        ["learning rate α", "outcome", "steps", "w0", "b0", "prediction", "J(θ)"],
        [
            (rate, run.outcome, len(run.path) - 1, w0, b0, x * w0 + b0, loss((w0, b0), x, y))
            for rate, run in descents
            for w0, b0 in run.path[-1:]
        ],
    )
    grad_w0, grad_b0 = gradient(start, x, y)
    limit = 1 / (x * x + 1)
    at_start = f"w0 = {start[0]:.4g}, b0 = {start[1]:.4g}, J = {loss(start, x, y):.4g}"
    takeaways = [
        f"Start, at random: {at_start}, ∇J = ({grad_w0:.4g}, {grad_b0:.4g}).",
        f"A step multiplies the error y - ŷ by 1 - 2α(x² + 1): above α = {limit:.4g} it grows.",
    ]
    present("gradient_descent", [table], takeaways, plot((x, y), descents))
    return {rate: run.outcome for rate, run in descents}


@rc_context(STYLE)
def plot(example: tuple[float, float], descents: Sequence[Descent]) -> str:
    """Draw each learning rate's path on the loss's surface over (w0, b0), and its loss by step.

    Of the two or three `descents`, the second should converge: the surface is centered where it ends.
    """
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, len(descents), height_ratios=(1.5, 1))
    x, y = example
    start, center = np.array(descents[0][1].path[0]), np.array(descents[1][1].path[-1])
    extent = np.maximum(2.1 * np.abs(start - center), 1)
    w0, b0 = (np.linspace(at - size, at + size, 41) for at, size in zip(center, extent, strict=True))
    w0_grid, b0_grid = np.meshgrid(w0, b0)
    surface = (y - (x * w0_grid + b0_grid)) ** 2
    levels = surface.max() * np.linspace(0, 1, 12) ** 2
    shades = [to_rgba(BLUE, 0.02 + 0.45 * share) for share in np.linspace(0, 1, 11)]
    for column, (rate, run) in enumerate(descents):
        panel = figure.add_subplot(grid[0, column])
        panel.contourf(w0, b0, surface, levels=levels, colors=shades)
        _plot_path(panel, run)
        if column == 0:
            panel.annotate("start", run.path[0], xytext=(0, -14), textcoords="offset points", ha="center")
        panel.set_title(f"α = {rate:g}: {run.outcome}", fontsize=10)
        panel.set(xlim=w0[[0, -1]], ylim=b0[[0, -1]], xlabel="w0", ylabel="b0" if column == 0 else "")
        panel.grid(visible=False)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.tick_params(labelleft=column == 0)
    _plot_losses(figure.add_subplot(grid[1, :]), example, descents)
    return render_svg(figure)


def _plot_path(axes: Axes, run: Trajectory) -> None:
    diverged = run.outcome == "diverged"
    path = np.array(run.path[:MAX_POINTS] if diverged else run.path)
    for start, end in pairwise(path):
        # Jumps over the valley are arcs: as straight lines they would cover each other.
        jump = FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={0.28 if diverged else 0.0}",
            arrowstyle="-",
            color=ORANGE,
            linewidth=1.5,
            shrinkA=0,
            shrinkB=0,
            clip_on=True,
        )
        axes.add_patch(jump)
    axes.plot(path[:, 0], path[:, 1], "o", color=ORANGE, markersize=4, clip_on=True)
    axes.plot(*path[0], "s", color=INK, markersize=7)


def _plot_losses(axes: Axes, example: tuple[float, float], descents: Sequence[Descent]) -> None:
    line_styles = (("--", MUTED), ("-", BLUE), (":", ORANGE))
    longest = max((len(run.path) for _, run in descents if run.outcome != "diverged"), default=MAX_POINTS)
    max_points = int(1.25 * longest)
    for (rate, run), (style, color) in zip(descents, line_styles[: len(descents)], strict=True):
        losses = [loss(point, *example) for point in run.path[:max_points]]
        axes.plot(np.maximum(losses, 1e-16), linestyle=style, color=color, linewidth=2, label=f"α = {rate:g}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="step", ylabel="J(θ)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


if __name__ == "__main__":
    gradient_descent.fn()
