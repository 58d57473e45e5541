import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys.loss import (
    binary_cross_entropy,
    cross_entropy_without_minus,
    fit_neuron,
    mean_squared_error,
    predict,
)

NUMBERS = st.floats(-1e6, 1e6)
PROBABILITIES = st.floats(0, 1)


def make_tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_loss_matches_hand_calculation() -> None:
    """The talk's example."""
    assert predict(2, 1, 3) == 5
    assert mean_squared_error([7], [5]) == 4


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_mean_squared_error_equals_pytorchs(pairs: list[tuple[float, float]]) -> None:
    targets, predictions = zip(*pairs, strict=True)
    expected = F.mse_loss(make_tensor(predictions), make_tensor(targets)).item()
    assert mean_squared_error(targets, predictions) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), PROBABILITIES), min_size=1, max_size=20))
def test_binary_cross_entropy_equals_pytorchs_and_the_slides_negated(
    pairs: list[tuple[float, float]],
) -> None:
    targets, probabilities = zip(*pairs, strict=True)
    expected = F.binary_cross_entropy(make_tensor(probabilities), make_tensor(targets)).item()
    assert binary_cross_entropy(targets, probabilities) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert cross_entropy_without_minus(targets, probabilities) == pytest.approx(
        -expected, rel=1e-9, abs=1e-12
    )


def test_binary_cross_entropy_better_prediction_is_smaller_but_not_on_the_slide() -> None:
    targets, good, bad = (1, 0), (0.9, 0.1), (0.2, 0.7)
    assert binary_cross_entropy(targets, good) == pytest.approx(-math.log(0.9))
    assert binary_cross_entropy(targets, good) < binary_cross_entropy(targets, bad)
    assert cross_entropy_without_minus(targets, good) > cross_entropy_without_minus(targets, bad)


@pytest.mark.parametrize("sign", [1, -1])
def test_fit_neuron_equals_pytorchs_sgd_on_each_formula(sign: int) -> None:
    inputs, targets = (-2.0, -1.0, 0.5, 2.0), (0.0, 0.0, 1.0, 1.0)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.3)
    for _ in range(20):
        optimizer.zero_grad()
        logits = theta[0] * make_tensor(inputs) + theta[1]
        (sign * F.binary_cross_entropy_with_logits(logits, make_tensor(targets))).backward()
        optimizer.step()
    weight, bias = fit_neuron(inputs, targets, 0.3, 20, sign=sign)
    assert (weight, bias) == pytest.approx(tuple(theta.tolist()), rel=1e-9)
    assert math.copysign(1, weight) == sign, "the slide's formula learns the opposite"


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([], [], "at least one target"),
        ([1, 0], [0.5], "2 targets need as many predictions, not 1"),
        ([1], [math.nan], "finite numbers, not nan"),
    ],
)
def test_losses_invalid_lengths_or_values_raise(
    targets: list[float], predictions: list[float], message: str
) -> None:
    for function in (mean_squared_error, binary_cross_entropy):
        with pytest.raises(ValueError, match=message):
            function(targets, predictions)
    with pytest.raises(ValueError, match=r"from 0 to 1, not 1\.5"):
        binary_cross_entropy([1], [1.5])
