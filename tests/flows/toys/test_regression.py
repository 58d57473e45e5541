import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from flows.toys.regression import (
    HOURS,
    POINTS,
    Line,
    descend,
    fit_least_squares,
    gradient,
    mean_squared_error,
    predict,
)


@given(st.lists(st.tuples(st.integers(-50, 50), st.floats(-50, 50)), min_size=3, unique_by=lambda p: p[0]))
def test_least_squares_equals_scikit_learn(points: list[tuple[int, float]]) -> None:
    x, y = [float(p[0]) for p in points], [p[1] for p in points]
    expected = LinearRegression().fit(np.array(x)[:, None], y)
    line = fit_least_squares(x, y)
    assert line.w == pytest.approx(float(expected.coef_[0]), abs=1e-8)
    assert line.b == pytest.approx(float(expected.intercept_), abs=1e-8)


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_gradient_equals_autograd(w: float, b: float) -> None:
    weight, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (w, b))
    x, y = (torch.tensor(values, dtype=torch.float64) for values in (HOURS, POINTS))
    expected = torch.autograd.grad(((y - weight * x - bias) ** 2).mean(), (weight, bias))
    slope = gradient(HOURS, POINTS, Line(w, b))
    assert [slope.w, slope.b] == pytest.approx([grad.item() for grad in expected])


def test_steps_downhill_come_to_the_line_of_least_squares() -> None:
    lines, best = descend(HOURS, POINTS, 0.02, 3000), fit_least_squares(HOURS, POINTS)
    assert (lines[-1].w, lines[-1].b) == pytest.approx((best.w, best.b), abs=1e-6)
    losses = [mean_squared_error(POINTS, predict(HOURS, line)) for line in lines]
    assert losses[0] > losses[1] > losses[100] > losses[-1]


def test_a_learning_rate_above_the_bound_diverges_and_the_steps_end() -> None:
    hessian = 2 / 10 * np.array([[sum(h * h for h in HOURS), sum(HOURS)], [sum(HOURS), 10]])
    assert 2 / np.linalg.eigvalsh(hessian)[-1] == pytest.approx(0.025, abs=5e-4)
    assert abs(descend(HOURS, POINTS, 0.03, 10_000)[-1].w) > 1e11


def test_invalid_points_raise() -> None:
    with pytest.raises(ValueError, match="3 points need as many hours, not 2"):
        mean_squared_error([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="any slope"):
        fit_least_squares([2.0, 2.0], [1.0, 3.0])
