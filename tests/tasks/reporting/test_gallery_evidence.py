import numpy as np
import pytest

from tasks.reporting.gallery import describe_place, draw_evidence


def test_draw_evidence_is_orange_for_blue_against_and_gray_without() -> None:
    image = np.full((4, 4, 3), 90, np.uint8)
    evidence = np.zeros((4, 4))
    evidence[0, 0], evidence[3, 3] = 2.0, -2.0
    red, green, blue = np.moveaxis(draw_evidence(image, evidence).astype(int), 2, 0)
    assert red[0, 0] > green[0, 0] > blue[0, 0]
    assert red[3, 3] < green[3, 3] < blue[3, 3]
    assert red[1, 2] == green[1, 2] == blue[1, 2]


def test_draw_evidence_without_any_is_gray() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    drawn = draw_evidence(image, np.zeros((4, 4)))
    assert (drawn == drawn[:, :, :1]).all()


@pytest.mark.parametrize(
    ("window", "place"),
    [
        ((0, 0, 8, 8), "upper left"),
        ((12, 12, 20, 20), "central"),
        ((12, 24, 20, 32), "right"),
        ((30, 10, 32, 18), "lower"),
    ],
)
def test_describe_place(window: tuple[int, int, int, int], place: str) -> None:
    assert describe_place(window, 32) == place
