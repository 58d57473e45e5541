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

from pydantic import Field

from flows.toys import figures
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
from models.toys import loss as maths
from models.toys.loss import binary_cross_entropy, cross_entropy_without_minus, mean_squared_error
from models.toys.neuron import sigmoid

Probabilities = Annotated[Sequence[Probability], Field(min_length=1, max_length=100)]

INPUTS = (-3.0, -2.2, -1.5, -0.9, -0.4, 0.5, 0.8, 1.6, 2.3, 3.0)
CLASSES = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)


@toy_task
def predict(x: float, w0: float, b0: float) -> float:
    return maths.predict(x, w0, b0)


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
    return maths.fit_neuron(INPUTS, CLASSES, learning_rate, steps, sign=sign)


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
    """Mean squared error and binary cross-entropy, and what a lost minus sign does.

    Args:
        x: input of the regression
        y: its target
        w0: the weight
        b0: the bias
        good_value: a good prediction of the target
        bad_value: a bad one
        targets: classes of the classification, 0 or 1
        good: a good prediction of them, a probability each
        bad: a bad one
        learning_rate: of the neuron that learns by either formula
        steps: of its gradient descent
    """
    prediction = predict(x, w0, b0)
    example = squared_error([y], [prediction])
    near, far = squared_error([y], [good_value]), squared_error([y], [bad_value])
    by_good, slide_good = cross_entropies(targets, good)
    by_bad, slide_bad = cross_entropies(targets, bad)
    right, wrong = fit_neuron(1.0, learning_rate, steps), fit_neuron(-1.0, learning_rate, steps)
    right_accuracy, wrong_accuracy = accuracy(*right), accuracy(*wrong)

    regression = Table(
        ["regression", "target y", "prediction ŷ", "mean squared error"],
        [
            ("the talk's θ", y, prediction, example),
            ("good", y, good_value, near),
            ("bad", y, bad_value, far),
        ],
    )
    classification = Table(
        ["classification", "targets", "prediction", "binary cross-entropy", "as on the slide"],
        [
            ("good", _list(targets), _list(good), by_good, slide_good),
            ("bad", _list(targets), _list(bad), by_bad, slide_bad),
        ],
    )
    learnt = Table(
        ["learnt by minimizing", "weight", "bias", "accuracy"],
        [
            ("-1/n Σ …", *right, f"{right_accuracy:.0%}"),
            ("the slide's 1/n Σ …", *wrong, f"{wrong_accuracy:.0%}"),
        ],
    )
    smaller = "smaller" if slide_bad < slide_good else "larger"
    says = [
        f"The slide leaves out the minus sign: by its formula the bad prediction has the {smaller} loss.",
        f"Minimizing it, {wrong_accuracy:.0%} of the answers are right instead of {right_accuracy:.0%}.",
    ]
    picture = figures.loss(
        y, {"the talk": prediction, "good": good_value, "bad": bad_value}, (INPUTS, CLASSES), (right, wrong)
    )
    publish("loss", [regression, classification, learnt], says, picture)
    return example


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    loss.fn()
