"""Loss functions (slides "Loss Function" and "Loss Function - Beispiel").

The talk's example: x = 2, y = 7, w0 = 1, b0 = 3; the prediction is 5 and J = (7 - 5)² = 4. Then both of the
talk's losses on a good and a bad prediction.

The slide prints the binary cross-entropy as 1/n Σ y·log ŷ + (1-y)·log(1-ŷ). A minus sign is missing: this is
largest where predictions are right. Here it is -1/n Σ …, and the last task shows what minimizing the slide's
version does: the network learns the opposite. The next slide says why: "Wenn die Loss Function die Distanz
zwischen Prediction und Target schlecht oder falsch beschreibt lernt das Netzwerk falsch".
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from pydantic import Field

from flows.toys.base import (
    BoundedFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Table,
    publish,
    toy_flow,
    toy_task,
)
from flows.toys.style import BLUE, INK, MUTED, ORANGE, STYLE, create_figure, format_number, render_svg
from models.toys import loss as loss_math
from models.toys.loss import binary_cross_entropy, cross_entropy_without_minus, mean_squared_error
from models.toys.neuron import sigmoid

Probabilities = Annotated[Sequence[Probability], Field(min_length=1, max_length=100)]

INPUTS = (-3.0, -2.2, -1.5, -0.9, -0.4, 0.5, 0.8, 1.6, 2.3, 3.0)
CLASSES = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)


@toy_task
def predict(x: float, w0: float, b0: float) -> float:
    return loss_math.predict(x, w0, b0)


@toy_task
def squared_error(targets: Sequence[float], predictions: Sequence[float]) -> float:
    return mean_squared_error(targets, predictions)


@toy_task
def cross_entropies(targets: Sequence[float], probabilities: Sequence[float]) -> tuple[float, float]:
    """With the minus sign, and as on the slide."""
    return binary_cross_entropy(targets, probabilities), cross_entropy_without_minus(targets, probabilities)


@toy_task
def fit_neuron(sign: float, learning_rate: float, steps: int) -> tuple[float, float]:
    """Weight and bias of a neuron that learns whether x is positive."""
    return loss_math.fit_neuron(INPUTS, CLASSES, learning_rate, steps, sign=sign)


@toy_task
def accuracy(weight: float, bias: float) -> float:
    probabilities = [sigmoid(weight * x + bias) for x in INPUTS]
    return sum((p > 0.5) == (y > 0.5) for p, y in zip(probabilities, CLASSES, strict=True)) / len(CLASSES)


@toy_flow
def loss(
    x: BoundedFloat = 2.0,
    y: BoundedFloat = 7.0,
    w0: BoundedFloat = 1.0,
    b0: BoundedFloat = 3.0,
    good_value: BoundedFloat = 6.5,
    bad_value: BoundedFloat = 3.0,
    targets: Probabilities = (1.0, 0.0, 1.0),
    good: Probabilities = (0.9, 0.1, 0.8),
    bad: Probabilities = (0.2, 0.7, 0.3),
    learning_rate: PositiveFloat = 0.5,
    steps: PositiveInt = 100,
) -> float:
    """Mean squared error and binary cross-entropy, and what a missing minus sign does.

    Args:
        x: input of the regression
        y: its target
        w0: the weight
        b0: the bias
        good_value: a good prediction of the target
        bad_value: a bad one
        targets: classes of the classification, 0 or 1
        good: a good prediction of them: one probability per class
        bad: a bad one
        learning_rate: of the neuron trained on each formula
        steps: of its gradient descent
    """
    prediction = predict(x, w0, b0)
    example = squared_error([y], [prediction])
    error_good, error_bad = squared_error([y], [good_value]), squared_error([y], [bad_value])
    entropy_good, slide_good = cross_entropies(targets, good)
    entropy_bad, slide_bad = cross_entropies(targets, bad)
    right, wrong = fit_neuron(1.0, learning_rate, steps), fit_neuron(-1.0, learning_rate, steps)
    right_accuracy, wrong_accuracy = accuracy(*right), accuracy(*wrong)

    regression = Table(
        ["regression", "target y", "prediction ŷ", "mean squared error"],
        [
            ("the talk's θ", y, prediction, example),
            ("good", y, good_value, error_good),
            ("bad", y, bad_value, error_bad),
        ],
    )
    classification = Table(
        ["classification", "targets", "prediction", "binary cross-entropy", "as on the slide"],
        [
            ("good", _join(targets), _join(good), entropy_good, slide_good),
            ("bad", _join(targets), _join(bad), entropy_bad, slide_bad),
        ],
    )
    learned = Table(
        ["learned by minimizing", "weight", "bias", "accuracy"],
        [
            ("-1/n Σ …", *right, f"{right_accuracy:.0%}"),
            ("the slide's 1/n Σ …", *wrong, f"{wrong_accuracy:.0%}"),
        ],
    )
    smaller = "smaller" if slide_bad < slide_good else "larger"
    takeaways = [
        f"The slide leaves out the minus sign: by its formula the bad prediction has the {smaller} loss.",
        f"Minimizing it, {wrong_accuracy:.0%} of the answers are right instead of {right_accuracy:.0%}.",
    ]
    predictions = {"the talk": prediction, "good": good_value, "bad": bad_value}
    svg = plot(y, predictions, (INPUTS, CLASSES), (right, wrong))
    publish("loss", [regression, classification, learned], takeaways, svg)
    return example


def _join(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


@rc_context(STYLE)
def plot(
    target: float,
    predictions: dict[str, float],
    points: tuple[Sequence[float], Sequence[float]],
    neurons: Sequence[tuple[float, float]],
) -> str:
    """SVG: squared errors of named predictions, cross-entropy by both formulas, what minimizing each learned.

    `points` are inputs and classes, `neurons` (weight, bias) after each formula.
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
    """SVG: the line `w0·x + b0` beside the target, and the squared error as a parabola."""
    figure, (line_ax, error_ax) = create_figure(3.2, columns=(1, 1))
    prediction = loss_math.predict(x, w0, b0)
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
