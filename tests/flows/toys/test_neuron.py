import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flows.toys.neuron import ACTIVATIONS, DERIVATIVES, activate, add_bias, add_up, multiply

NUMBERS = st.floats(-100, 100)
TORCH = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def compute_neuron(inputs: Sequence[float], weights: Sequence[float], bias: float, activation: str) -> float:
    """The steps of the flow, one after the other."""
    return activate(add_bias(add_up(multiply(inputs, weights)), bias), activation)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8), NUMBERS, st.sampled_from(list(TORCH)))
def test_neuron_equals_pytorchs_linear_layer(
    pairs: list[tuple[float, float]], bias: float, activation: str
) -> None:
    inputs, weights = zip(*pairs, strict=True)
    linear = torch.nn.Linear(len(pairs), 1, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([weights], dtype=torch.float64))
        linear.bias.fill_(bias)
        expected = TORCH[activation](linear(torch.tensor(inputs, dtype=torch.float64))).item()
    assert compute_neuron(inputs, weights, bias, activation) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_neuron_matches_hand_calculation() -> None:
    # 0.5 + 1·0.8 - 2·0.4 + 3·0.2 = 1.1
    assert compute_neuron((1, 2, 3), (0.8, -0.4, 0.2), 0.5, "relu") == pytest.approx(1.1)
    assert compute_neuron((1, 2, 3), (0.8, -0.4, 0.2), 0.5, "sigmoid") == pytest.approx(
        1 / (1 + math.exp(-1.1))
    )


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(list(ACTIVATIONS)))
def test_activations_and_derivatives_any_number_equal_pytorchs(z: float, activation: str) -> None:
    leaf = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = TORCH[activation](leaf)
    expected.backward()
    assert leaf.grad is not None
    assert activate(z, activation) == pytest.approx(expected.item(), rel=1e-12)
    assert DERIVATIVES[activation](z) == pytest.approx(leaf.grad.item(), rel=1e-6, abs=1e-12)


def test_multiply_and_activate_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="3 inputs need as many weights, not 2"):
        multiply([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="not a number"):
        activate(math.nan, "relu")
    with pytest.raises(ValueError, match="no activation 'step', only sigmoid, tanh, relu"):
        activate(1.0, "step")
