import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flows.toys.softmax import (
    cross_entropy,
    exponentiate,
    gradient,
    loss_and_gradient_by_pytorch,
    normalize,
)

LOGITS = st.lists(st.floats(-100, 100), min_size=2, max_size=10)


@given(LOGITS, st.integers(0, 1))
def test_loss_and_gradient_equal_pytorch(logits: list[float], label: int) -> None:
    loss, slopes = loss_and_gradient_by_pytorch(logits, label)
    probabilities = normalize(exponentiate(logits))
    assert probabilities == pytest.approx(
        torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).tolist()
    )
    assert sum(probabilities) == pytest.approx(1)
    assert cross_entropy(logits, label) == pytest.approx(loss, abs=1e-12)
    assert gradient(probabilities, label) == pytest.approx(slopes, abs=1e-12)


@given(LOGITS, st.floats(-1e3, 1e3))
def test_softmax_does_not_change_if_all_sums_rise(logits: list[float], rise: float) -> None:
    raised = normalize(exponentiate([z + rise for z in logits]))
    assert raised == pytest.approx(normalize(exponentiate(logits)), abs=1e-9)


def test_equal_sums_cost_the_logarithm_of_the_number_of_classes() -> None:
    assert cross_entropy([3.0] * 10, 4) == pytest.approx(math.log(10))


def test_invalid_sums_and_labels_raise() -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        exponentiate([0.0, math.inf])
    with pytest.raises(ValueError, match="no class 2, only 0 to 1"):
        cross_entropy([0.0, 1.0], 2)
