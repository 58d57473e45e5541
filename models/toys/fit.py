"""Too little capacity, enough, too much (slide "General Approach: Machine Learning")."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Fit:
    """A polynomial of one degree, fitted to the training points."""

    degree: int
    coefficients: Tensor
    """`(degree + 1,)`, of the Chebyshev polynomials T_0, T_1, …"""
    train_error: float
    val_error: float
    """mean squared errors"""


def sample_points(count: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """A sine with noise: x `(count,)`, one in each `count`-th of -1 to 1, and y `(count,)`, float64."""
    x = 2 * (torch.arange(count) + torch.rand(count, dtype=torch.float64, generator=generator)) / count - 1
    return x, true_function(x) + noise * torch.randn(count, dtype=torch.float64, generator=generator)


def true_function(x: Tensor) -> Tensor:
    """The curve without noise: `sin(πx)`."""
    return torch.sin(torch.pi * x)


def chebyshev_features(x: Tensor, degree: int) -> Tensor:
    """`(N, degree + 1)`: T_0(x), T_1(x), …

    They span the same polynomials as x's powers, with smaller rounding errors.
    """
    features = [torch.ones_like(x), x]
    while len(features) <= degree:
        features.append(2 * x * features[-1] - features[-2])
    return torch.stack(features[: degree + 1], 1)


def fit_polynomial(degree: int, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> Fit:
    """Least squares. `ValueError` where the degree is negative, or the training points are too few for it."""
    if degree < 0:
        raise ValueError(f"the degree should be at least 0, not {degree}")
    if len(train[0]) <= degree:
        raise ValueError(f"degree {degree} needs more than {degree} training points, not {len(train[0])}")
    coefficients = torch.linalg.lstsq(chebyshev_features(train[0], degree), train[1][:, None]).solution[:, 0]
    return Fit(
        degree, coefficients, mean_squared_error(coefficients, train), mean_squared_error(coefficients, val)
    )


def predict(coefficients: Tensor, x: Tensor) -> Tensor:
    return chebyshev_features(x, len(coefficients) - 1) @ coefficients


def mean_squared_error(coefficients: Tensor, data: tuple[Tensor, Tensor]) -> float:
    """Of the polynomial on points `(x, y)`."""
    x, y = data
    return (predict(coefficients, x) - y).square().mean().item()


def select_best(fits: Sequence[Fit]) -> Fit:
    """The fit with the smallest validation error; of equals, the one with the lowest degree."""
    return min(fits, key=lambda fit: (fit.val_error, fit.degree))
