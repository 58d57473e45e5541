import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flows.toys.gradient_descent import Point, descend, gradient, gradient_descent, loss

NUMBERS = st.floats(-1e3, 1e3)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_gradient_equals_autograds(w0: float, b0: float, x: float, y: float) -> None:
    theta = torch.tensor([w0, b0], dtype=torch.float64, requires_grad=True)
    value = (y - (x * theta[0] + theta[1])) ** 2
    value.backward()
    assert loss((w0, b0), x, y) == pytest.approx(value.item(), rel=1e-9, abs=1e-9)
    assert theta.grad is not None
    assert gradient((w0, b0), x, y) == pytest.approx(tuple(theta.grad.tolist()), rel=1e-9, abs=1e-9)


def compute_example_gradient(parameters: Point) -> Point:
    return gradient(parameters, 2, 7)


def test_gradient_descent_one_step_matches_hand_calculation() -> None:
    # w0 = 1, b0 = 3: prediction 5, ∇J = -2·(7 - 5)·(2, 1) = (-8, -4)
    assert compute_example_gradient((1, 3)) == (-8, -4)
    assert descend(compute_example_gradient, (1, 3), 0.05, max_steps=1, tolerance=0).path[1] == pytest.approx(
        (1.4, 3.2)
    )


def test_gradient_descent_path_equals_pytorchs_sgd() -> None:
    theta = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.03)
    descent = descend(compute_example_gradient, (1, 3), 0.03, max_steps=30, tolerance=0)
    for point in descent.path:
        assert point == pytest.approx(tuple(theta.tolist()))
        optimizer.zero_grad()
        ((7 - (2 * theta[0] + theta[1])) ** 2).backward()
        optimizer.step()


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 0.18))
def test_gradient_descent_below_the_limit_converges_along_the_gradient(
    w0: float, b0: float, rate: float
) -> None:
    descent = descend(compute_example_gradient, (w0, b0), rate, max_steps=1000, tolerance=1e-6)
    assert descent.outcome == "converged"
    end = descent.path[-1]
    assert loss(end, 2, 7) < 1e-12
    assert end[0] - w0 == pytest.approx(2 * (end[1] - b0), abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "outcome", "steps"),
    [(0.001, "not there yet", 40), (0.1, "converged", 1), (0.2, "not there yet", 40), (0.21, "diverged", 40)],
)
def test_gradient_descent_learning_rate_decides_the_outcome(rate: float, outcome: str, steps: int) -> None:
    """A step multiplies the error by 1 - 10α: by 0 for α = 0.1, by -1 for α = 0.2."""
    descent = descend(compute_example_gradient, (1, 3), rate, max_steps=40, tolerance=1e-6)
    assert (descent.outcome, len(descent.path) - 1) == (outcome, steps)


def test_gradient_descent_diverging_stops_before_overflow() -> None:
    descent = descend(compute_example_gradient, (1, 3), 100, max_steps=10_000, tolerance=1e-6)
    assert descent.outcome == "diverged"
    assert all(map(math.isfinite, descent.path[-1]))


@pytest.mark.parametrize("rate", [-0.1, 0, math.nan, math.inf])
def test_descend_learning_rate_not_positive_raises(rate: float) -> None:
    with pytest.raises(ValueError, match="the learning rate should be greater than 0"):
        descend(compute_example_gradient, (1, 3), rate, max_steps=1, tolerance=0)


def test_descend_start_not_finite_raises() -> None:
    with pytest.raises(ValueError, match="should start at finite numbers"):
        descend(compute_example_gradient, (math.nan, 0), 0.1, max_steps=1, tolerance=0)


def test_gradient_descent_with_only_too_large_learning_rates_saves_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = gradient_descent.fn(lr_too_small=0.25, lr_good=0.3, lr_too_large=0.35)
    assert outcomes == {0.25: "diverged", 0.3: "diverged", 0.35: "diverged"}
    assert "α = 0.3: diverged" in Path("reports/toys/gradient_descent.svg").read_text(encoding="utf-8")
