from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate2d

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
def test_edges_equal_scipys_correlation(picture: str) -> None:
    pixels = parse_picture(PICTURES[picture])
    for found, weights in zip(find_edges(pixels), EDGES.values(), strict=True):
        expected = np.maximum(0, correlate2d(pixels, np.array(weights), mode="same") - 1)
        np.testing.assert_array_equal(found, expected)


def test_corners_are_where_two_edges_meet_and_no_other() -> None:
    corners = find_corners(find_edges(parse_picture(PICTURES["square"])))
    assert [tuple(np.argwhere(corner)[0].tolist()) for corner in corners] == [(1, 2), (1, 7), (6, 2), (6, 7)]
    assert corners.sum() == 4
    assert find_corners(find_edges(parse_picture(PICTURES["lines"]))).sum() == 0


@pytest.mark.parametrize(("picture", "answer"), [("square", 1), ("cross", 0), ("open", 0), ("lines", 0)])
def test_only_the_square_is_a_square(
    picture: str, answer: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
