"""Loss functions (slides "Loss Function" and "Loss Function - Beispiel").

In the talk's example, x = 2, y = 7, w0 = 1 and b0 = 3; the prediction is 5 and J = (7 - 5)² = 4. Then both of
the talk's losses judge a good and a bad prediction.

The slide prints the binary cross-entropy as 1/n Σ y·log ŷ + (1-y)·log(1-ŷ). A minus sign is missing: this is
largest where predictions are right. Here it is -1/n Σ …, and the last task shows what minimizing the slide's
version does: the network learns the opposite. The next slide says why: "Wenn die Loss Function die Distanz
zwischen Prediction und Target schlecht oder falsch beschreibt lernt das Netzwerk falsch".
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from pydantic import AfterValidator, Field, ValidationInfo

from flows.run.tables import Table
from flows.toys.base import (
    BoundedFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    create_figure,
    format_number,
    present,
    toy_flow,
    toy_task,
)
from flows.toys.neuron import sigmoid
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, STYLE, render_svg

INPUTS = (-3.0, -2.2, -1.5, -0.9, -0.4, 0.5, 0.8, 1.6, 2.3, 3.0)
CLASSES = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)
LOG_CLAMP = -100.0  # log(0) would be infinite; PyTorch has the same limit


def _validate_length(predictions: Sequence[float], info: ValidationInfo) -> Sequence[float]:
    targets = info.data.get("targets", predictions)
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets need as many predictions, not {len(predictions)}")
    return predictions


Probabilities = Annotated[Sequence[Probability], Field(min_length=1, max_length=100)]
Predictions = Annotated[Probabilities, Field(validate_default=True), AfterValidator(_validate_length)]


@toy_task
def predict(x: float, w0: float, b0: float) -> float:
    """Compute `x·w0 + b0`, the talk's network of one weight and one bias."""
    return x * w0 + b0


@toy_task
def mean_squared_error(targets: Sequence[float], predictions: Sequence[float]) -> float:
    """Compute `1/n Σ (y - ŷ)²`; there must be as many finite predictions as targets, at least one."""
    _validate(targets, predictions)
    return sum((y - p) ** 2 for y, p in zip(targets, predictions, strict=True)) / len(targets)


@toy_task
def binary_cross_entropy(targets: Sequence[float], probabilities: Sequence[float]) -> float:
    """Compute `-1/n Σ y·log ŷ + (1-y)·log(1-ŷ)`, with logarithms no less than -100, as in PyTorch.

    There must be as many probabilities as targets, at least one, and each value must be from 0 to 1.
    """
    return -cross_entropy_without_minus(targets, probabilities)


@toy_task
def cross_entropy_without_minus(targets: Sequence[float], probabilities: Sequence[float]) -> float:
    """Compute the formula as the talk's slide prints it: without the minus sign."""
    _validate(targets, probabilities)
    for value in (*targets, *probabilities):
        if not 0 <= value <= 1:
            raise ValueError(f"targets and probabilities should be from 0 to 1, not {value}")
    pairs = zip(targets, probabilities, strict=True)
    return sum(y * _log(p) + (1 - y) * _log(1 - p) for y, p in pairs) / len(targets)


@toy_task
def fit_neuron(
    inputs: Sequence[float], targets: Sequence[float], learning_rate: float, steps: int, *, sign: float
) -> tuple[float, float]:
    """Train `sigmoid(x·w + b)` by gradient descent from 0 on the binary cross-entropy; return w and b.

    `sign` 1 descends on the binary cross-entropy, -1 on the slide's version. The gradient is that of the
    cross-entropy through the sigmoid: the mean of `(ŷ - y)·x` and of `ŷ - y`.
    """
    _validate(targets, inputs)
    weight = bias = 0.0
    for _ in range(steps):
        errors = [sigmoid(x * weight + bias) - y for x, y in zip(inputs, targets, strict=True)]
        weight_gradient = sum(e * x for e, x in zip(errors, inputs, strict=True)) / len(inputs)
        bias_gradient = sum(errors) / len(inputs)
        weight -= learning_rate * sign * weight_gradient
        bias -= learning_rate * sign * bias_gradient
    return weight, bias


@toy_task
def accuracy(weight: float, bias: float) -> float:
    """Measure the share of `INPUTS` whose class the neuron finds."""
    probabilities = [sigmoid(weight * x + bias) for x in INPUTS]
    return sum((p > 0.5) == (y > 0.5) for p, y in zip(probabilities, CLASSES, strict=True)) / len(CLASSES)


def _log(value: float) -> float:
    return max(math.log(value), LOG_CLAMP) if value > 0 else LOG_CLAMP


def _validate(targets: Sequence[float], predictions: Sequence[float]) -> None:
    if not targets:
        raise ValueError("a loss needs at least one target")
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets need as many predictions, not {len(predictions)}")
    for value in (*targets, *predictions):
        if not math.isfinite(value):
            raise ValueError(f"targets and predictions should be finite numbers, not {value}")


@toy_flow
def loss(
    x: BoundedFloat = 2.0,
    y: BoundedFloat = 7.0,
    w0: BoundedFloat = 1.0,
    b0: BoundedFloat = 3.0,
    good_value: BoundedFloat = 6.5,
    bad_value: BoundedFloat = 3.0,
    targets: Probabilities = (1.0, 0.0, 1.0),
    good: Predictions = (0.9, 0.1, 0.8),
    bad: Predictions = (0.2, 0.7, 0.3),
    learning_rate: PositiveFloat = 0.5,
    steps: PositiveInt = 100,
) -> float:
    """Compute mean squared error and binary cross-entropy, and show what a missing minus sign does.

    Args:
        x: the input of the regression
        y: the target of the regression
        w0: the weight
        b0: the bias
        good_value: a good prediction of y
        bad_value: a bad prediction of y
        targets: the classes of the classification, 0 or 1
        good: a good prediction of the classes, one probability each
        bad: a bad prediction of the classes
        learning_rate: the learning rate of the neuron that is trained on each formula
        steps: the number of steps of its gradient descent
    """
    prediction = predict(x, w0, b0)
    example = mean_squared_error([y], [prediction])
    regression = Table(
        ["regression", "target y", "prediction ŷ", "mean squared error"],
        [
            ("the talk's θ", y, prediction, example),
            ("good", y, good_value, mean_squared_error([y], [good_value])),
            ("bad", y, bad_value, mean_squared_error([y], [bad_value])),
        ],
    )
    classification, smaller = _compare_entropies(targets, good, bad)
    neurons = [fit_neuron(INPUTS, CLASSES, learning_rate, steps, sign=sign) for sign in (1.0, -1.0)]
    right, wrong = [accuracy(*neuron) for neuron in neurons]
    learned = Table(
        ["learned by minimizing", "weight", "bias", "accuracy"],
        [("-1/n Σ …", *neurons[0], f"{right:.0%}"), ("the slide's 1/n Σ …", *neurons[1], f"{wrong:.0%}")],
    )
    takeaways = [
        f"The slide leaves out the minus sign: by its formula the {smaller} prediction has the smaller loss.",
        f"Minimizing it, {wrong:.0%} of the answers are right instead of {right:.0%}.",
    ]
    svg = plot(y, {"the talk": prediction, "good": good_value, "bad": bad_value}, (INPUTS, CLASSES), neurons)
    present("loss", [regression, classification, learned], takeaways, svg)
    return example


def _compare_entropies(
    targets: Sequence[float], good: Sequence[float], bad: Sequence[float]
) -> tuple[Table, str]:
    """Tabulate both formulas for both predictions; return the name of the one that the slide's prefers."""
    predictions = {"good": good, "bad": bad}
    correct = {name: binary_cross_entropy(targets, values) for name, values in predictions.items()}
    slide = {name: cross_entropy_without_minus(targets, values) for name, values in predictions.items()}
    rows = [
        (name, _join(targets), _join(values), correct[name], slide[name])
        for name, values in predictions.items()
    ]
    columns = ["classification", "targets", "prediction", "binary cross-entropy", "as on the slide"]
    return Table(columns, rows), min(slide, key=slide.__getitem__)


def _join(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


@rc_context(STYLE)
def plot(
    target: float,
    predictions: dict[str, float],
    points: tuple[Sequence[float], Sequence[float]],
    neurons: Sequence[tuple[float, float]],
) -> str:
    """Draw named predictions' squared errors, the cross-entropy by both formulas, and what each led to.

    `points` are inputs and classes, and `neurons` holds (weight, bias) after minimizing each formula.
    """
    figure, (error_ax, entropy_ax, fit_ax) = create_figure(3.0, columns=(1.05, 1, 1))
    _plot_errors(error_ax, target, predictions)
    _plot_entropies(entropy_ax)
    _plot_fits(fit_ax, *points, neurons)
    for panel in (error_ax, entropy_ax, fit_ax):
        panel.title.set_fontsize(10)
        panel.xaxis.set_major_locator(MaxNLocator(4))
    return render_svg(figure)


def _plot_errors(axes: Axes, target: float, predictions: dict[str, float]) -> None:
    reach = 1.2 * max(1.0, *(abs(target - prediction) for prediction in predictions.values()))
    grid = np.linspace(target - reach, target + reach, 121)
    axes.plot(grid, (target - grid) ** 2, color=BLUE, linewidth=2)
    label_height = -np.inf
    for name, prediction in sorted(predictions.items(), key=lambda item: abs(target - item[1])):
        error = (target - prediction) ** 2
        side = -1 if prediction <= target else 1  # labels stand outside the parabola, one above the other
        label_height = max(error, label_height + 0.09 * reach**2)
        axes.plot([prediction], [error], "o", color=ORANGE, markersize=7)
        axes.annotate(
            f"{name}: {format_number(error)}",
            (prediction, label_height),
            xytext=(8 * side, 0),
            textcoords="offset points",
            color=ORANGE,
            fontsize=9,
            ha="left" if side > 0 else "right",
            va="center",
        )
    room_left = 2.2 if min(predictions.values()) <= target else 1.0  # for the labels
    room_right = 2.2 if max(predictions.values()) > target else 1.0
    axes.set_xlim(target - room_left * reach, target + room_right * reach)
    axes.set(xlabel=f"prediction ŷ (target {format_number(target)})", title="squared error")


def _plot_entropies(axes: Axes) -> None:
    grid = np.linspace(0.01, 0.99, 99)
    axes.plot(grid, -np.log(grid), color=BLUE, linewidth=2)
    axes.plot(grid, np.log(grid), color=ORANGE, linewidth=2, linestyle="--")
    axes.text(0.3, 1.75, "−log ŷ: best at 1", color=BLUE, fontsize=9)
    axes.text(0.3, -2.1, "slide, log ŷ:\nbest at 0", color=ORANGE, fontsize=9, va="center")
    axes.set(xlabel="prediction ŷ (target 1)", title="cross-entropy", xlim=(0, 1))


def _plot_fits(
    axes: Axes, inputs: Sequence[float], classes: Sequence[float], neurons: Sequence[tuple[float, float]]
) -> None:
    low, high = min(inputs), max(inputs)
    margin = 0.15 * (high - low) + 0.1
    grid = np.linspace(low - margin, high + margin, 161)
    for (weight, bias), color, style in zip(neurons, (BLUE, ORANGE), ("-", "--"), strict=True):
        probabilities = [sigmoid(weight * float(x) + bias) for x in grid]
        axes.plot(grid, probabilities, color=color, linestyle=style, linewidth=2)
    axes.plot(inputs, classes, "o", color=INK, markersize=5)
    axes.text(0.98, 0.7, "with minus", color=BLUE, ha="right", transform=axes.transAxes)
    axes.text(0.98, 0.2, "slide", color=ORANGE, ha="right", transform=axes.transAxes)
    axes.set(xlabel="input x", title="learned: ŷ(x)", ylim=(-0.08, 1.08))


@rc_context(STYLE)
def plot_example(x: float, y: float, w0: float, b0: float) -> str:
    """Draw the line `w0·x + b0` beside the target, and the squared error as a parabola."""
    figure, (line_ax, error_ax) = create_figure(3.2, columns=(1, 1))
    prediction = predict(x, w0, b0)
    error = y - prediction
    reach = 1.5 * max(abs(x), 2.0)
    xs = np.array([-reach, reach])
    line_ax.plot(xs, w0 * xs + b0, color=BLUE, linewidth=2)
    line_ax.plot([x, x], [prediction, y], color=ORANGE, linewidth=1.5, linestyle=":")
    line_ax.plot([x], [y], "s", color=INK, markersize=7)
    line_ax.plot([x], [prediction], "o", color=BLUE, markersize=8)
    line_ax.set(xlim=(-reach, reach), xlabel="x", title=f"ŷ = {format_number(w0)}·x + {format_number(b0)}")
    line_ax.margins(y=0.15)

    width = 1.3 * max(abs(error), 2.0)
    grid = np.linspace(y - width, y + width, 121)
    error_ax.plot(grid, (y - grid) ** 2, color=MUTED)
    error_ax.plot([prediction], [error**2], "o", color=ORANGE, markersize=8)
    error_ax.plot([y], [0], "s", color=INK, markersize=7)
    error_ax.set(
        xlabel="prediction ŷ (the square is the target)", title=f"J = (y - ŷ)² = {format_number(error**2)}"
    )
    return render_svg(figure)


if __name__ == "__main__":
    loss.fn()
