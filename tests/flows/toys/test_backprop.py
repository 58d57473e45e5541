from dataclasses import astuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flows.toys.backprop import (
    Gradients,
    activation_backward,
    forward_pass,
    gradients_by_autograd,
    gradients_by_finite_differences,
    linear_backward,
    loss_backward,
)
from flows.toys.neuron import ACTIVATIONS

ANY = st.floats(-1e6, 1e6)
SMALL = st.floats(-3, 3)
NAMES = st.sampled_from(list(ACTIVATIONS))


def gradients_by_chain_rule(x1: float, w1: float, b: float, y: float, activation: str) -> Gradients:
    """The steps of the flow, one after the other."""
    fwd = forward_pass(x1, w1, b, y, activation)
    return linear_backward(activation_backward(loss_backward(y, fwd), fwd, activation), x1, w1)


def test_backprop_matches_hand_calculation() -> None:
    """The talk's example: z = 2·1 + 3 = 5 = ŷ, J = 4, ∂J/∂ŷ = -2·(7 - 5) = -4."""
    fwd = forward_pass(2, 1, 3, 7, "relu")
    assert astuple(fwd) == (5, 5, 4)
    assert loss_backward(7, fwd) == -4
    assert gradients_by_chain_rule(2, 1, 3, 7, "relu") == Gradients(w1=-8, b=-4, x1=-4)
    assert gradients_by_chain_rule(2, 1, -3, 7, "relu") == Gradients(w1=0, b=0, x1=0), (
        "ReLU lets nothing through below 0"
    )


@given(ANY, ANY, ANY, ANY, NAMES)
def test_chain_rule_any_numbers_equals_autograd(
    x1: float, w1: float, b: float, y: float, activation: str
) -> None:
    grads = gradients_by_chain_rule(x1, w1, b, y, activation)
    expected = gradients_by_autograd(x1, w1, b, y, activation)
    assert astuple(grads) == pytest.approx(astuple(expected), rel=1e-6, abs=1e-6)


@given(SMALL, SMALL, SMALL, SMALL, NAMES)
def test_chain_rule_equals_finite_differences(
    x1: float, w1: float, b: float, y: float, activation: str
) -> None:
    assume(activation != "relu" or abs(x1 * w1 + b) > 1e-3)  # at its kink ReLU has no slope
    grads = gradients_by_chain_rule(x1, w1, b, y, activation)
    expected = gradients_by_finite_differences(x1, w1, b, y, activation)
    assert astuple(grads) == pytest.approx(astuple(expected), rel=1e-6, abs=1e-6)


def test_forward_pass_nan_raises() -> None:
    with pytest.raises(ValueError, match="should be finite numbers, not nan"):
        forward_pass(float("nan"), 1, 3, 7, "relu")
