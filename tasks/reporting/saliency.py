"""A map of evidence over its image, as a picture and in words."""

import numpy as np
from numpy.typing import NDArray

from tasks.reporting.svg import BLUE, ORANGE

DARKEST, LIGHTEST = 70, 230  # of the gray, so that both colors stand out against it


def draw_evidence(image: NDArray[np.uint8], evidence: NDArray[np.float64]) -> NDArray[np.uint8]:
    """`image` `(S, S, 3)` in gray; orange where `evidence` `(S, S)` is positive, blue where it is negative.

    The largest absolute value is the end of the scale.
    """
    gray = DARKEST + (LIGHTEST - DARKEST) / 255 * np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    orange, blue = (np.array([*bytes.fromhex(color[1:])], float) for color in (ORANGE, BLUE))
    color = np.where(evidence[:, :, None] > 0, orange, blue)
    opacity = np.abs(evidence)[:, :, None] / max(np.abs(evidence).max(), 1e-12)
    pixels: NDArray[np.uint8] = (gray + opacity * (color - gray)).round().astype(np.uint8)
    return pixels


def describe_place(window: tuple[int, int, int, int], size: int) -> str:
    """Where a window (top, left, bottom, right) is in an image of that size: its `upper left` part."""
    top, left, bottom, right = window
    row, column = ((low + high) * 3 // (2 * size) for low, high in ((top, bottom), (left, right)))
    rows, columns = ("upper", "", "lower"), ("left", "", "right")
    return " ".join(filter(None, (rows[row], columns[column]))) or "central"
