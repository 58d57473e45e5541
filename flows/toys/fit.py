"""Underfitting, sweet spot, overfitting (slide "General Approach: Machine Learning").

Polynomials of growing degree are fitted to a few noisy points. The training error only falls; the validation
error falls, then rises. Where it is smallest is the sweet spot: found on validation data, and measured once
on testing data, as the slide has it. What to do at either end is in the slide's words.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from flows.toys import figures
from flows.toys.base import NonNegativeFloat, Table, publish, toy_flow, toy_task
from models.toys.fit import Fit, fit_polynomial, mean_squared_error, predict, sample_points, select_best
from tasks.params import Seed

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
    """By the validation error alone."""
    return select_best(fits)


@toy_task
def test_error(chosen: Fit, test: Points) -> float:
    return mean_squared_error(chosen.coefficients, test)


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
        train_points: to fit to
        val_points: to choose the degree by
        test_points: to measure the chosen one by
        noise: of the points
        max_degree: the largest capacity
        seed: of the points
    """
    train, val, test = make_data((train_points, val_points, test_points), noise, seed)
    fits = fit_all(max_degree, train, val)
    sweet = select_model(fits)
    final = test_error(sweet, test)
    more = fit_with_more_data(max_degree, train_points, noise, val, seed + 1)

    table = Table(
        ["degree", "training error", "validation error", ""],
        [(str(f.degree), f"{f.train_error:.4f}", f"{f.val_error:.4g}", _regime(f, sweet)) for f in fits],
    )
    ends = Table(
        ["end", "sign of it", "what the talk advises"],
        [
            ("underfitting, high bias", "both errors large", "feature engineering !; adjust #epochs"),
            (
                "overfitting, high variance",
                "validation alone",
                "get even more data!; reduce feature dimension",
            ),
        ],
    )
    before, after = fits[-1].val_error, more.val_error
    says = [
        f"The sweet spot, by validation data, is degree {sweet.degree}; on testing data: {final:.3g}.",
        f"Even more data, ten times as much: degree {max_degree} has {after:.3g} instead of {before:.3g}.",
    ]
    publish("fit", [table, ends], says, _figure(fits, sweet, train))
    return sweet.degree


def _regime(one: Fit, sweet: Fit) -> str:
    if one.degree == sweet.degree:
        return "sweet spot"
    return "underfitting" if one.degree < sweet.degree else "overfitting"


def _figure(fits: Sequence[Fit], sweet: Fit, train: Points) -> str:
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
    chosen = [("underfitting", fits[min(1, sweet.degree)]), ("sweet spot", sweet), ("overfitting", fits[-1])]
    return figures.fit(
        ([f.degree for f in fits], [f.train_error for f in fits], [f.val_error for f in fits]),
        sweet.degree,
        (train[0].tolist(), train[1].tolist()),
        grid.tolist(),
        [(f"{name}: degree {f.degree}", predict(f.coefficients, grid).tolist()) for name, f in chosen],
    )


if __name__ == "__main__":
    fit.fn()
