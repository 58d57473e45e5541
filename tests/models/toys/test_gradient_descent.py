import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flows.toys.gradient_descent import gradient_descent
from models.toys.gradient_descent import Point, gradient, gradient_descent, loss
from tasks.workspace.errors import InputError

NUMBERS = st.floats(-1e3, 1e3)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_gradient_is_autograds(w0: float, b0: float, x: float, y: float) -> None:
    theta = torch.tensor([w0, b0], dtype=torch.float64, requires_grad=True)
    value = (y - (x * theta[0] + theta[1])) ** 2
    value.backward()
    assert loss((w0, b0), x, y) == pytest.approx(value.item(), rel=1e-9, abs=1e-9)
    assert gradient((w0, b0), x, y) == pytest.approx(tuple(theta.grad.tolist()), rel=1e-9, abs=1e-9)


def on_the_example(at: Point) -> Point:
    return gradient(at, 2, 7)


def test_one_step_by_hand() -> None:
    # w0 = 1, b0 = 3: prediction 5, ∇J = -2·(7 - 5)·(2, 1) = (-8, -4)
    assert on_the_example((1, 3)) == (-8, -4)
    assert gradient_descent(on_the_example, (1, 3), 0.05, max_steps=1, tolerance=0).path[1] == pytest.approx(
        (1.4, 3.2)
    )


def test_path_is_that_of_pytorchs_sgd() -> None:
    theta = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.03)
    descent = gradient_descent(on_the_example, (1, 3), 0.03, max_steps=30, tolerance=0)
    for point in descent.path:
        assert point == pytest.approx(tuple(theta.tolist()))
        optimizer.zero_grad()
        ((7 - (2 * theta[0] + theta[1])) ** 2).backward()
        optimizer.step()


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 0.18))
def test_converges_below_the_limit_and_stays_on_the_gradients_line(w0: float, b0: float, rate: float) -> None:
    descent = gradient_descent(on_the_example, (w0, b0), rate, max_steps=1000, tolerance=1e-6)
    assert descent.outcome == "converged"
    end = descent.path[-1]
    assert loss(end, 2, 7) < 1e-12
    assert end[0] - w0 == pytest.approx(2 * (end[1] - b0), abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "outcome", "steps"),
    [(0.001, "not there yet", 40), (0.1, "converged", 1), (0.2, "not there yet", 40), (0.21, "diverged", 40)],
)
def test_outcomes(rate: float, outcome: str, steps: int) -> None:
    """By a step the error becomes 1 - 10α times itself: gone at once for 0.1, only mirrored for 0.2."""
    descent = gradient_descent(on_the_example, (1, 3), rate, max_steps=40, tolerance=1e-6)
    assert (descent.outcome, len(descent.path) - 1) == (outcome, steps)


def test_diverging_ends_long_before_overflow() -> None:
    descent = gradient_descent(on_the_example, (1, 3), 100, max_steps=10_000, tolerance=1e-6)
    assert descent.outcome == "diverged"
    assert all(map(math.isfinite, descent.path[-1]))


@pytest.mark.parametrize("rate", [-0.1, 0, math.nan, math.inf])
def test_learning_rate_has_to_be_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="the learning rate should be greater than 0"):
        gradient_descent(on_the_example, (1, 3), rate, max_steps=1, tolerance=0)
    with pytest.raises(InputError, match=r"^gradient_descent: lr_good should be "):
        gradient_descent.fn(lr_good=rate)


def test_start_has_to_be_finite() -> None:
    with pytest.raises(ValueError, match="should start at finite numbers"):
        gradient_descent(on_the_example, (math.nan, 0), 0.1, max_steps=1, tolerance=0)
