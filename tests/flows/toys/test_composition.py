from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn import functional

from flows.toys.base import parse_picture
from flows.toys.composition import (
    EDGES,
    PICTURES,
    SPAN,
    composition,
    find_corners,
    find_edges,
    find_object,
)


@pytest.mark.parametrize("picture", PICTURES)
def test_edges_equal_a_convolution_of_pytorch(picture: str) -> None:
    pixels = parse_picture(PICTURES[picture])
    for found, weights in zip(find_edges(pixels), EDGES.values(), strict=True):
        image, weight = (torch.tensor(np.array(values))[None, None].double() for values in (pixels, weights))
        expected = functional.relu(functional.conv2d(image, weight, padding=1) - 1)[0, 0]
        np.testing.assert_array_equal(found, expected.numpy())


def test_corners_are_where_two_edges_meet_and_no_other() -> None:
    corners = find_corners(find_edges(parse_picture(PICTURES["square"])))
    assert [tuple(np.argwhere(corner)[0].tolist()) for corner in corners] == [(1, 2), (1, 7), (6, 2), (6, 7)]
    assert corners.sum() == 4
    assert find_corners(find_edges(parse_picture(PICTURES["lines"]))).sum() == 0


@pytest.mark.parametrize(("picture", "answer"), [("square", 1), ("cross", 0), ("open", 0), ("lines", 0)])
def test_only_the_square_is_a_square(
    picture: Literal["square", "cross", "open", "lines"],
    answer: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert composition.fn(picture) == answer


def test_a_square_is_found_wherever_it_is() -> None:
    square = parse_picture(PICTURES["square"])
    for shift in ((0, 0), (1, 1), (-1, 2)):
        moved = np.roll(square, shift, axis=(0, 1))
        found = find_object(find_corners(find_edges(moved)))
        assert np.argwhere(found).tolist() == [[1 + shift[0], 2 + shift[1]]]
    assert SPAN == 5
