import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.network_page.weights import encode_weights, round_to_three_bytes


def decode(encoded: np.ndarray) -> np.ndarray:
    words = encoded.astype(np.uint32) @ np.array([1 << 24, 1 << 16, 1 << 8], dtype=np.uint32)
    return words.astype(np.uint32).view(np.float32)


@given(st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=1), st.sampled_from([1, -1]))
def test_weights_are_rounded_to_sixteen_significant_bits(values: list[float], sign: int) -> None:
    weights = np.array(values, dtype=np.float32) * np.float32(sign)
    assert decode(round_to_three_bytes(weights)) == pytest.approx(weights, rel=2**-16, abs=0)


def test_rounding_goes_to_the_nearest_and_ties_to_the_even_number() -> None:
    weights = np.array([0.0, -1.0, 1 + 2**-16, 1 + 3 * 2**-16, 2 - 2**-20], dtype=np.float32)
    assert decode(round_to_three_bytes(weights)).tolist() == [0.0, -1.0, 1.0, 1 + 2**-14, 2.0]


def test_encode_weights_lists_the_parameters_in_order() -> None:
    network = torch.nn.Linear(3, 2)
    encoded = encode_weights(network)
    assert encoded["shapes"] == [("weight", [2, 3]), ("bias", [2])]
    assert len(encoded["weights"]) == 8 * 3 * 4 // 3
