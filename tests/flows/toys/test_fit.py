from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from flows.toys.fit import (
    Fit,
    chebyshev_features,
    fit_polynomial,
    predict,
    sample_points,
    select_best,
    squared_errors,
    true_function,
)


def make_points(seed: int) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    generator = Generator().manual_seed(seed)
    return sample_points(20, 0.25, generator), sample_points(60, 0.25, generator)


@pytest.mark.parametrize("degree", [0, 1, 3, 9])
def test_fit_polynomial_equals_numpys(degree: int) -> None:
    train, val = make_points(0)
    fit = fit_polynomial(degree, train, val)
    reference = np.polynomial.Polynomial.fit(train[0].numpy(), train[1].numpy(), degree)
    grid = torch.linspace(-0.9, 0.9, 50, dtype=torch.float64)
    np.testing.assert_allclose(predict(fit.coefficients, grid).numpy(), reference(grid.numpy()), atol=1e-6)
    expected = np.mean((reference(val[0].numpy()) - val[1].numpy()) ** 2)
    assert fit.val_error == pytest.approx(expected, rel=1e-5)


def test_chebyshev_features_equal_numpys() -> None:
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    expected = np.polynomial.chebyshev.chebvander(x.numpy(), 6)
    np.testing.assert_allclose(chebyshev_features(x, 6).numpy(), expected, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_fit_polynomial_higher_degree_does_not_raise_training_error(seed: int) -> None:
    train, val = make_points(seed)
    errors = [fit_polynomial(degree, train, val).train_error for degree in range(15)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))


def test_validation_error_is_u_shaped_over_the_degree() -> None:
    train, val = make_points(0)
    fits = [fit_polynomial(degree, train, val) for degree in range(15)]
    best = select_best(fits)
    assert 3 <= best.degree <= 7, "a sine's period needs a cubic"
    assert fits[0].val_error > 3 * best.val_error
    assert fits[-1].val_error > 3 * best.val_error
    assert fits[-1].train_error < best.train_error


def test_select_best_equal_errors_takes_the_lowest_degree() -> None:
    unused = torch.zeros(1)
    assert select_best([Fit(4, unused, 0, 0.1), Fit(2, unused, 0, 0.1), Fit(1, unused, 0, 0.2)]).degree == 2


def test_sample_points_without_noise_lie_on_the_curve() -> None:
    x, y = sample_points(50, 0.0, Generator())
    assert torch.equal(y, true_function(x))
    assert x.min() >= -1
    assert x.max() <= 1
    zero = torch.zeros(1, dtype=torch.float64)
    assert squared_errors(zero, (x, y)).mean().item() == pytest.approx(0.5, abs=0.05)


def test_fit_polynomial_too_few_points_raises() -> None:
    train, val = make_points(0)
    with pytest.raises(ValueError, match="degree 20 needs more than 20 training points, not 20"):
        fit_polynomial(20, train, val)
    with pytest.raises(ValueError, match="the degree should be at least 0, not -1"):
        fit_polynomial(-1, train, val)
