"""The toys' pictures as SVG, in the report's style: readable in light and dark, and without color."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from models.toys.backprop import Forward, Gradients
from models.toys.gradient_descent import Trajectory
from models.toys.loss import predict
from models.toys.neuron import ACTIVATIONS, sigmoid
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, PAPER, STYLE, render_svg

WIDTH = 7.2  # inches
Values = NDArray[np.float64]


@rc_context(STYLE)
def neuron(inputs: Sequence[float], weights: Sequence[float], bias: float, z: float, activation: str) -> str:
    """The neuron with its numbers, and its sum on the three activations."""
    figure, (diagram_ax, curves) = _figure(2.9, columns=(1.15, 1))
    output = ACTIVATIONS[activation](z)
    diagram_ax.set(xlim=(-0.35, 4.2), ylim=(-0.45, 3.45))
    diagram_ax.axis("off")
    rows = [(f"x{i}\n{_fmt(x)}", f"w{i} = {_fmt(w)}") for i, (x, w) in _enumerate_pairs(inputs, weights)]
    rows.append(("1", f"w0 = {_fmt(bias)}"))
    for height, (value, weight) in zip((3, 2, 1, 0), rows, strict=True):
        _arrow(diagram_ax, (0, height), (2.35, 1.5))
        _node(diagram_ax, (0, height), value)
        _edge_label(diagram_ax, (1.0, height + (1.5 - height) * 1.0 / 2.35), weight, BLUE)
    _arrow(diagram_ax, (2.35, 1.5), (3.75, 1.5))
    _node(diagram_ax, (2.35, 1.5), f"Σ\n{_fmt(z)}", size=40)
    _node(diagram_ax, (3.75, 1.5), f"f\n{_fmt(output)}", size=40, color=ORANGE)
    diagram_ax.text(3.75, 2.25, activation, ha="center", color=ORANGE)
    diagram_ax.text(2.35, 2.25, "sum, bias", ha="center", color=MUTED)

    reach = max(4.0, 1.3 * abs(z))
    top = min(reach, max(2.2, 1.2 * output))
    grid = np.linspace(-reach, reach, 241)
    others = iter(("--", ":"))
    for name, function in ACTIVATIONS.items():
        chosen = name == activation
        line_style: dict[str, Any] = (
            {"color": BLUE, "lw": 2.4} if chosen else {"color": MUTED, "ls": next(others)}
        )
        curves.plot(grid, [function(float(at)) for at in grid], label=name, **line_style)
    curves.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, frameon=False, columnspacing=1.2)
    curves.plot([z, z], [0, output], color=ORANGE, linewidth=1.2, linestyle=":")
    curves.plot([z], [output], "o", color=ORANGE, markersize=8)
    right = z > 0.4 * reach
    curves.annotate(
        f"f({_fmt(z)}) = {_fmt(output)}",
        (z, output),
        xytext=(-9 if right else 9, -15),
        textcoords="offset points",
        color=ORANGE,
        ha="right" if right else "left",
    )
    curves.set(xlim=(-reach, reach), ylim=(-1.2, top), xlabel="sum with bias")
    return render_svg(figure)


@rc_context(STYLE)
def layers(
    points: Values,
    classes: Values,
    extent: tuple[float, float, float, float],
    panels: Sequence[tuple[str, Values]],
) -> str:
    """The points `(N, 2)` over what each network makes of the plane: a title and logits `(H, W)` a panel."""
    figure, axes = _figure(2.75, columns=(1,) * len(panels))
    for panel, (title, logits) in zip(axes, panels, strict=True):
        x = np.linspace(extent[0], extent[1], logits.shape[1])
        y = np.linspace(extent[2], extent[3], logits.shape[0])
        sides = [to_rgba(ORANGE, 0.16), to_rgba(BLUE, 0.16)]
        panel.contourf(x, y, logits > 0, levels=[-0.5, 0.5, 1.5], colors=sides)
        panel.contour(x, y, logits, levels=[0], colors=INK, linewidths=2)
        for value, color, marker in ((0, ORANGE, "s"), (1, BLUE, "o")):
            of_class = points[classes == value]
            panel.plot(of_class[:, 0], of_class[:, 1], marker, color=color, markersize=3.2, markeredgewidth=0)
        panel.set_title(title, fontsize=10)
        panel.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", xticks=[], yticks=[])
        panel.grid(visible=False)
    return render_svg(figure)


@rc_context(STYLE)
def loss(
    target: float,
    predictions: dict[str, float],
    points: tuple[Sequence[float], Sequence[float]],
    neurons: Sequence[tuple[float, float]],
) -> str:
    """Squared errors of named predictions; both cross-entropies; what minimizing each has learnt.

    `points` are inputs and classes, `neurons` weight and bias by either formula.
    """
    figure, (parabola, entropies, fit_ax) = _figure(3.0, columns=(1.05, 1, 1))
    reach = 1.2 * max(1.0, *(abs(target - prediction) for prediction in predictions.values()))
    grid = np.linspace(target - reach, target + reach, 121)
    parabola.plot(grid, (target - grid) ** 2, color=BLUE, linewidth=2)
    lowest = -np.inf
    for name, prediction in sorted(predictions.items(), key=lambda item: abs(target - item[1])):
        error = (target - prediction) ** 2
        side = -1 if prediction <= target else 1  # the names stand outside the parabola, one above the other
        lowest = max(error, lowest + 0.09 * reach**2)
        parabola.plot([prediction], [error], "o", color=ORANGE, markersize=7)
        parabola.annotate(
            f"{name}: {_fmt(error)}",
            (prediction, lowest),
            xytext=(8 * side, 0),
            textcoords="offset points",
            color=ORANGE,
            fontsize=9,
            ha="left" if side > 0 else "right",
            va="center",
        )
    room_left = 2.2 if min(predictions.values()) <= target else 1.0  # for the names
    room_right = 2.2 if max(predictions.values()) > target else 1.0
    parabola.set_xlim(target - room_left * reach, target + room_right * reach)
    parabola.set(xlabel=f"prediction ŷ (target {_fmt(target)})", title="squared error")

    grid = np.linspace(0.01, 0.99, 99)
    entropies.plot(grid, -np.log(grid), color=BLUE, linewidth=2)
    entropies.plot(grid, np.log(grid), color=ORANGE, linewidth=2, linestyle="--")
    entropies.text(0.3, 1.75, "−log ŷ: best at 1", color=BLUE, fontsize=9)
    entropies.text(0.3, -2.1, "slide, log ŷ:\nbest at 0", color=ORANGE, fontsize=9, va="center")
    entropies.set(xlabel="prediction ŷ (target 1)", title="cross-entropy", xlim=(0, 1))

    xs, classes = (np.array(values) for values in points)
    margin = 0.15 * (xs.max() - xs.min()) + 0.1
    grid = np.linspace(xs.min() - margin, xs.max() + margin, 161)
    for (weight, bias), color, style in zip(neurons, (BLUE, ORANGE), ("-", "--"), strict=True):
        chance = [sigmoid(weight * float(x) + bias) for x in grid]
        fit_ax.plot(grid, chance, color=color, linestyle=style, linewidth=2)
    fit_ax.plot(xs, classes, "o", color=INK, markersize=5)
    fit_ax.text(0.98, 0.7, "with minus", color=BLUE, ha="right", transform=fit_ax.transAxes)
    fit_ax.text(0.98, 0.2, "slide", color=ORANGE, ha="right", transform=fit_ax.transAxes)
    fit_ax.set(xlabel="input x", title="learnt: ŷ(x)", ylim=(-0.08, 1.08))
    for panel in (parabola, entropies, fit_ax):
        panel.title.set_fontsize(10)
        panel.xaxis.set_major_locator(MaxNLocator(4))
    return render_svg(figure)


@rc_context(STYLE)
def loss_example(x: float, y: float, w0: float, b0: float) -> str:
    """The talk's example: the line `w0·x + b0` beside the target, and the squared error as a parabola."""
    figure, (line, parabola) = _figure(3.2, columns=(1, 1))
    prediction = predict(x, w0, b0)
    error = y - prediction
    reach = 1.5 * max(abs(x), 2.0)
    across = np.array([-reach, reach])
    line.plot(across, w0 * across + b0, color=BLUE, linewidth=2)
    line.plot([x, x], [prediction, y], color=ORANGE, linewidth=1.5, linestyle=":")
    line.plot([x], [y], "s", color=INK, markersize=7)
    line.plot([x], [prediction], "o", color=BLUE, markersize=8)
    line.set(xlim=(-reach, reach), xlabel="x", title=f"ŷ = {_fmt(w0)}·x + {_fmt(b0)}")
    line.margins(y=0.15)

    width = 1.3 * max(abs(error), 2.0)
    around = np.linspace(y - width, y + width, 121)
    parabola.plot(around, (y - around) ** 2, color=MUTED)
    parabola.plot([prediction], [error**2], "o", color=ORANGE, markersize=8)
    parabola.plot([y], [0], "s", color=INK, markersize=7)
    parabola.set(xlabel="prediction ŷ (the square is the target)", title=f"J = (y - ŷ)² = {_fmt(error**2)}")
    return render_svg(figure)


@rc_context(STYLE)
def gradient_descent(
    loss_at: Callable[[Values, Values], Values], descents: Sequence[tuple[float, Trajectory, list[float]]]
) -> str:
    """Each learning rate's path on the loss's surface over (w0, b0), and its loss by step.

    `descents` holds the learning rate, the path, and the loss along it; of two or three runs, the second is
    the one that arrives.
    """
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, len(descents), height_ratios=(1.5, 1))
    start, foot = np.array(descents[0][1].path[0]), np.array(descents[1][1].path[-1])
    window = np.maximum(2.1 * np.abs(start - foot), 1)
    across, along = (np.linspace(at - size, at + size, 41) for at, size in zip(foot, window, strict=True))
    surface = loss_at(*np.meshgrid(across, along))
    levels = surface.max() * np.linspace(0, 1, 12) ** 2
    shades = [to_rgba(BLUE, 0.02 + 0.45 * share) for share in np.linspace(0, 1, 11)]
    for column, (rate, descent, _) in enumerate(descents):
        panel = figure.add_subplot(grid[0, column])
        panel.contourf(across, along, surface, levels=levels, colors=shades)
        path = np.array(descent.path[:8] if descent.outcome == "diverged" else descent.path)
        for start, end in pairwise(path):
            # hops over the valley are drawn as arcs: on a straight line they would cover each other
            bend = 0.28 if descent.outcome == "diverged" else 0.0
            hop = FancyArrowPatch(
                start,
                end,
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-",
                color=ORANGE,
                linewidth=1.5,
                shrinkA=0,
                shrinkB=0,
                clip_on=True,
            )
            panel.add_patch(hop)
        panel.plot(path[:, 0], path[:, 1], "o", color=ORANGE, markersize=4, clip_on=True)
        panel.plot(*path[0], "s", color=INK, markersize=7)
        if column == 0:
            panel.annotate("start", path[0], xytext=(0, -14), textcoords="offset points", ha="center")
        panel.set_title(f"α = {rate:g}: {descent.outcome}", fontsize=10)
        panel.set(xlim=across[[0, -1]], ylim=along[[0, -1]], xlabel="w0", ylabel="b0" if column == 0 else "")
        panel.grid(visible=False)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.tick_params(labeleft=column == 0)
    below = figure.add_subplot(grid[1, :])
    looks = (("--", MUTED), ("-", BLUE), (":", ORANGE))
    longest = 1.25 * max(len(losses) for _, descent, losses in descents if descent.outcome != "diverged")
    for (rate, _, losses), (style, color) in zip(descents, looks[: len(descents)], strict=True):
        shown = np.maximum(losses[: int(longest)], 1e-16)
        below.plot(shown, linestyle=style, color=color, linewidth=2, label=f"α = {rate:g}")
    below.set_yscale("log")
    below.set(xlabel="step", ylabel="J(θ)")
    below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return render_svg(figure)


@rc_context(STYLE)
def backprop(
    given: tuple[float, float, float, float],
    seen: Forward,
    local: tuple[float, float],
    by: Gradients,
    activation: str,
) -> str:
    """The graph with its values above, and how J changes with each below.

    `given` is (x1, w1, b, y), `local` (∂J/∂ŷ, ∂J/∂z).
    """
    figure, axes = _figure(3.1)
    axes.set(xlim=(-0.75, 6.75), ylim=(-0.62, 2.75))
    axes.axis("off")
    x1, w1, b, y = given
    nodes = {
        "x1": ((0, 2.1), x1, "∂J/∂x1", by.x1),
        "w1": ((0, 1.05), w1, "∂J/∂w1", by.w1),
        "b": ((0, 0), b, "∂J/∂b", by.b),
        "z": ((2.2, 1.05), seen.z, "∂J/∂z", local[1]),
        "ŷ": ((4.2, 1.05), seen.prediction, "∂J/∂ŷ", local[0]),
        "J": ((6.2, 1.05), seen.loss, "", None),
    }
    for start, end in (("x1", "z"), ("w1", "z"), ("b", "z"), ("z", "ŷ"), ("ŷ", "J")):
        _arrow(axes, nodes[start][0], nodes[end][0])
    for name, (at, value, label, slope) in nodes.items():
        _node(axes, at, f"{name}\n{_fmt(value)}", size=38, color=BLUE)
        if slope is not None:
            axes.annotate(
                f"{label} = {_fmt(slope)}",
                at,
                xytext=(0, -23),
                textcoords="offset points",
                ha="center",
                va="top",
                color=ORANGE,
                fontsize=9.5,
            )
    axes.text(2.2, 1.68, "z = x1·w1 + b", ha="center", color=MUTED)
    axes.text(4.2, 1.68, f"ŷ = {activation}(z)", ha="center", color=MUTED)
    axes.text(6.2, 1.68, "J = (y − ŷ)²", ha="center", color=MUTED)
    axes.text(6.2, 0.3, f"target y = {_fmt(y)}", ha="center", color=MUTED)
    axes.text(4.2, 2.5, "forward: values →", ha="center", color=BLUE)
    axes.text(4.2, -0.45, "← backward: gradients, by the chain rule", ha="center", color=ORANGE)
    return render_svg(figure)


@rc_context(STYLE)
def training_cycle(
    losses: Sequence[float],
    points: tuple[Sequence[float], Sequence[float]],
    grid: Sequence[float],
    before: Sequence[float],
    after: Sequence[float],
) -> str:
    """The loss by epoch, and the network before and after, over the points that it was trained on."""
    figure, (loss_ax, curve) = _figure(2.9, columns=(1, 1.2))
    loss_ax.plot(range(1, len(losses) + 1), losses, color=BLUE, linewidth=2)
    loss_ax.set_yscale("log")
    loss_ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss_ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    loss_ax.yaxis.set_minor_formatter(NullFormatter())
    loss_ax.set(xlabel="epoch", title="loss J(θ)")
    curve.plot(*points, "o", color=INK, markersize=4)
    curve.plot(grid, before, color=ORANGE, linestyle="--", linewidth=2)
    curve.plot(grid, after, color=BLUE, linewidth=2.2)
    curve.set(xlabel="x", title="network")
    curve.text(0.03, 0.94, "after", color=BLUE, va="top", transform=curve.transAxes)
    curve.text(0.03, 0.85, "before", color=ORANGE, va="top", transform=curve.transAxes)
    for panel in (loss_ax, curve):
        panel.title.set_fontsize(10)
    return render_svg(figure)


@rc_context(STYLE)
def fit(
    errors: tuple[Sequence[int], Sequence[float], Sequence[float]],
    sweet: int,
    points: tuple[Sequence[float], Sequence[float]],
    grid: Sequence[float],
    panels: Sequence[tuple[str, Sequence[float]]],
) -> str:
    """Both errors by degree, and three fits over the training points.

    `errors` are degrees, training errors, validation errors; `panels` a title and values over `grid`.
    """
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    cells = figure.add_gridspec(2, len(panels), height_ratios=(1.25, 1))
    axes = figure.add_subplot(cells[0, :])
    degrees, train, val = errors
    axes.axvline(sweet, color=MUTED, linewidth=1, linestyle=":")
    axes.plot(degrees, train, color=ORANGE, linestyle="--", marker="s", markersize=4, linewidth=1.8)
    axes.plot(degrees, val, color=BLUE, marker="o", markersize=5, linewidth=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    ends = max(train[-1], low), max(val[-1], low)
    close = abs(np.log(ends[0] / ends[1])) < 0.08 * np.log(high / low)
    for name, end, other, color in (("training", *ends, ORANGE), ("validation", *ends[::-1], BLUE)):
        away = 0 if not close else (7 if (end, color) > (other, ORANGE) else -7)
        axes.annotate(
            name, (degrees[-1], end), xytext=(8, away), textcoords="offset points", va="center", color=color
        )
    axes.annotate(
        f"sweet spot: degree {sweet}",
        (sweet, 1.03),
        xycoords=axes.get_xaxis_transform(),
        ha="center" if 0 < degrees.index(sweet) < len(degrees) - 1 else "left",
        color=MUTED,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="capacity: degree of the polynomial", ylabel="mean squared error")
    low, high = min(points[1]), max(points[1])
    for column, (title, values) in enumerate(panels):
        panel = figure.add_subplot(cells[1, column])
        panel.plot(*points, "o", color=INK, markersize=3.5)
        panel.plot(grid, values, color=BLUE, linewidth=2)
        panel.set_title(title, fontsize=10)
        panel.set(ylim=(low - 0.3 * (high - low), high + 0.3 * (high - low)), xticks=[], yticks=[])
    return render_svg(figure)


@rc_context(STYLE)
def discounted_return(rewards: Sequence[float], rows: Sequence[tuple[float, list[float]]]) -> str:
    """What each reward counts, a panel a discount factor; `rows` hold factors and discounted rewards."""
    figure, panels = _figure(0.55 + 1.15 * len(rows), rows=(1,) * len(rows))
    steps = range(len(rewards))
    reach = 1.35 * max(map(abs, rewards), default=1.0) or 1.0
    for panel, (gamma, values) in zip(np.atleast_1d(panels), rows, strict=True):
        panel.bar(steps, rewards, color="none", edgecolor=MUTED, linestyle=":", width=0.62)
        panel.bar(steps, values, color=[BLUE if value >= 0 else ORANGE for value in values], width=0.62)
        for at, value in zip(steps, values, strict=True):
            if value:
                panel.annotate(
                    f"{value:+.3g}".replace("-", "−"),
                    (at, max(value, rewards[at], 0)),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                )
        panel.axhline(0, color=MUTED, linewidth=1)
        panel.set(ylim=(-reach, reach), ylabel=f"γ = {gamma:g}", xlim=(-0.6, len(rewards) - 0.4))
        panel.yaxis.label.set_color(INK)
        panel.grid(visible=False)
        panel.set_yticks([0], [""])
        panel.set_xticks(steps, [""] * len(rewards))
        panel.text(
            1.01,
            0.5,
            f"R = {_fmt(sum(values))}",
            transform=panel.transAxes,
            va="center",
            fontsize=12,
            color=BLUE,
        )
    last = np.atleast_1d(panels)[-1]
    last.set_xticks(steps, [str(step) for step in steps])
    last.set_xlabel("step i (dotted: the reward itself)")
    return render_svg(figure)


def _figure(height: float, *, rows: Sequence[float] = (1,), columns: Sequence[float] = (1,)) -> Any:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(len(rows), len(columns), height_ratios=rows, width_ratios=columns)


def _enumerate_pairs(inputs: Sequence[float], weights: Sequence[float]) -> Any:
    return enumerate(zip(inputs, weights, strict=True), start=1)


def _fmt(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _node(axes: Axes, at: tuple[float, float], text: str, *, size: float = 34, color: str = INK) -> None:
    axes.plot(*at, "o", markersize=size, markerfacecolor=PAPER, markeredgecolor=color, markeredgewidth=1.4)
    axes.text(*at, text, ha="center", va="center", fontsize=9, color=color, linespacing=1.1)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 17, "shrinkB": 21, "lw": 1.1}
    axes.annotate("", end, start, arrowprops=arrow)


def _edge_label(axes: Axes, at: tuple[float, float], text: str, color: str) -> None:
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    axes.text(*at, text, ha="center", va="center", fontsize=9, color=color, bbox=box)
