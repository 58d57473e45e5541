"""Gradient descent (slides "Gradient Descent", "Learning Rate" and "Loss Function - Beispiel").

1. Initialize the parameters at random.
2. Repeat until convergence: compute the gradient ∇J of the loss, then update θ <- θ - α·∇J.

On the loss of the talk's example, J(w0, b0) = (y - (x·w0 + b0))². Its minimum is no point but a valley: one
equation does not settle two parameters, so where the descent ends depends on where it began.
"""

import random

from flows.toys import figures
from flows.toys.base import BoundedFloat, PositiveFloat, PositiveInt, Table, publish, toy_flow, toy_task
from models.toys import gradient_descent as maths
from models.toys.gradient_descent import Point, Trajectory, gradient, loss
from tasks.params import Seed


@toy_task
def initialize(seed: int) -> Point:
    """w0 and b0, uniform from -5 to 5."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    return chance.uniform(-5, 5), chance.uniform(-5, 5)


@toy_task
def run_gradient_descent(
    start: Point, learning_rate: float, example: tuple[float, float], max_steps: int
) -> Trajectory:
    def gradient_at(parameters: Point) -> Point:
        return gradient(parameters, *example)

    return maths.gradient_descent(gradient_at, start, learning_rate, max_steps=max_steps, tolerance=1e-6)


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
    """θ <- θ - α·∇J with three learning rates, from the same random start.

    Args:
        x: the example's input
        y: the example's target
        too_small: a learning rate α that is too small to arrive
        fitting: one that fits
        too_large: one that diverges; here, all above 1 / (x² + 1) do
        max_steps: updates after which to give up
        seed: of the random start
    """
    start = initialize(seed)
    descents = [
        (rate, run_gradient_descent(start, rate, (x, y), max_steps))
        for rate in (lr_too_small, lr_good, lr_too_large)
    ]
    traced = [(rate, run, [loss(point, x, y) for point in run.path]) for rate, run in descents]

    table = Table(
        ["learning rate α", "outcome", "steps", "w0", "b0", "prediction", "J(θ)"],
        [
            (rate, run.outcome, len(run.path) - 1, w0, b0, x * w0 + b0, losses[-1])
            for rate, run, losses in traced
            for w0, b0 in run.path[-1:]
        ],
    )
    along_w0, along_b0 = gradient(start, x, y)
    limit = 1 / (x * x + 1)
    at_start = f"w0 = {start[0]:.4g}, b0 = {start[1]:.4g}, J = {loss(start, x, y):.4g}"
    says = [
        f"Start, at random: {at_start}, ∇J = ({along_w0:.4g}, {along_b0:.4g}).",
        f"A step multiplies the error y - ŷ by 1 - 2α(x² + 1): above α = {limit:.4g} it grows.",
    ]
    picture = figures.gradient_descent(lambda w0, b0: (y - (x * w0 + b0)) ** 2, traced)
    publish("gradient_descent", [table], says, picture)
    return {rate: run.outcome for rate, run in descents}


if __name__ == "__main__":
    gradient_descent.fn()
