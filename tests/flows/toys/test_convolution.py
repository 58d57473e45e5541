from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys.base import parse_picture
from flows.toys.convolution import (
    FILTERS,
    PICTURES,
    apply_relu,
    convolution,
    convolve_by_pytorch,
    slide_filter,
)


@given(st.integers(3, 9), st.integers(3, 9), st.integers(0, 2**32 - 1))
def test_slide_filter_equals_pytorch(rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    picture, weights = generator.normal(size=(rows, columns)), generator.normal(size=(3, 3))
    z = slide_filter(picture, weights, 0.3)
    expected = F.conv2d(torch.from_numpy(picture)[None, None], torch.from_numpy(weights)[None, None])
    np.testing.assert_allclose(z, expected[0, 0].numpy() + 0.3, atol=1e-12)
    np.testing.assert_allclose(apply_relu(z), convolve_by_pytorch(picture, weights, 0.3), atol=1e-12)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("pattern", FILTERS)
def test_a_shifted_picture_has_a_shifted_map(picture: str, pattern: str) -> None:
    pixels, weights = parse_picture(PICTURES[picture]), np.array(FILTERS[pattern], dtype=float)
    shifted = np.pad(pixels, ((1, 0), (1, 0)))
    expected = slide_filter(pixels, weights, 0.0)
    np.testing.assert_array_equal(slide_filter(shifted, weights, 0.0)[1:, 1:], expected)


def test_edge_filters_answer_to_their_edges_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert convolution.fn("bars", "horizontal edge") == 3
    assert convolution.fn("bars", "vertical edge", bias=-1.5) == 0.5, "only the ends of the bars"


def test_slide_filter_of_a_picture_that_is_too_small_raises() -> None:
    with pytest.raises(ValueError, match=r"at least 3x3, not \(2, 5\)"):
        slide_filter(np.zeros((2, 5)), np.zeros((3, 3)), 0.0)
