"""Convolution: one small filter slides over one picture, and answers at each place.

A filter is a neuron that sees 3x3 pixels: nine products, their sum, a bias, ReLU. The same nine weights are
used at each place, so a pattern is found wherever it is. The talk's network has 5x5 filters over three
colors, which are the same with 75 products. `torch.nn.functional.conv2d` gives the same map.
"""

from typing import Literal

import numpy as np
import torch
from matplotlib import rc_context
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.run.tables import Table
from flows.toys.base import (
    BoundedFloat,
    Values,
    create_figure,
    draw_grid,
    format_number,
    parse_picture,
    present,
    toy_flow,
    toy_task,
)
from flows.toys.neuron import activate, add_bias, add_up, multiply
from tasks.reporting.svg import STYLE, render_svg

PICTURES = {
    "house": ("........", "...##...", "..####..", ".######.", ".#....#.", ".#....#.", ".######.", "........"),
    "cross": ("........", "...##...", "...##...", ".######.", ".######.", "...##...", "...##...", "........"),
    "bars": ("........", ".######.", "........", ".######.", "........", ".######.", "........", "........"),
}
FILTERS = {
    "horizontal edge": ((1, 1, 1), (0, 0, 0), (-1, -1, -1)),
    "vertical edge": ((1, 0, -1), (1, 0, -1), (1, 0, -1)),
    "diagonal": ((2, -1, -1), (-1, 2, -1), (-1, -1, 2)),
    "blur": ((1 / 9,) * 3,) * 3,
}
SIZE = 3


@toy_task
def slide_filter(picture: Values, weights: Values, bias: float) -> Values:
    """Compute the neuron's z at each place: `(rows - 2, columns - 2)`.

    `weights` is `(3, 3)`, and the picture must be at least as large.
    """
    if min(picture.shape) < SIZE or weights.shape != (SIZE, SIZE):
        raise ValueError(f"a 3x3 filter needs a picture of at least 3x3, not {picture.shape}")
    rows, columns = (size - SIZE + 1 for size in picture.shape)
    return np.array(
        [
            [_neuron_at(picture, weights, bias, row, column) for column in range(columns)]
            for row in range(rows)
        ]
    )


def _neuron_at(picture: Values, weights: Values, bias: float, row: int, column: int) -> float:
    patch = picture[row : row + SIZE, column : column + SIZE]
    return add_bias(add_up(multiply(patch.ravel().tolist(), weights.ravel().tolist())), bias)


@toy_task
def apply_relu(z: Values) -> Values:
    """Compute `f(z) = max(0, z)` of each place."""
    return np.array([[activate(value, "relu") for value in row] for row in z.tolist()])


@toy_task
def convolve_by_pytorch(picture: Values, weights: Values, bias: float) -> Values:
    """Compute the same map with `conv2d` and `relu`, in float64."""
    x, w = (torch.from_numpy(values)[None, None] for values in (picture, weights))
    feature_map: Values = F.relu(F.conv2d(x, w, torch.tensor([bias], dtype=torch.float64)))[0, 0].numpy()
    return feature_map


@toy_flow
def convolution(
    picture: Literal["house", "cross", "bars"] = "house",
    pattern: Literal["horizontal edge", "vertical edge", "diagonal", "blur"] = "horizontal edge",
    bias: BoundedFloat = 0.0,
) -> float:
    """Slide a 3x3 filter over a picture of 8x8 pixels, by hand and by PyTorch.

    Args:
        picture: the picture, of black (1) and white (0) pixels
        pattern: the filter: the pattern that it answers to
        bias: the bias; a negative one silences weak answers
    """
    pixels, weights = parse_picture(PICTURES[picture]), np.array(FILTERS[pattern], dtype=float)
    z = slide_filter(pixels, weights, bias)
    feature_map = apply_relu(z)
    by_pytorch = convolve_by_pytorch(pixels, weights, bias)
    row, column = (int(index) for index in np.unravel_index(feature_map.argmax(), feature_map.shape))
    patch = pixels[row : row + SIZE, column : column + SIZE]

    steps = Table(
        ["row of the filter", "pixels x · weights w", "sum"],
        [
            (
                str(number),
                ", ".join(f"{x:g}·{w:.3g}" for x, w in zip(pixel_row, weight_row, strict=True)),
                float(pixel_row @ weight_row),
            )
            for number, (pixel_row, weight_row) in enumerate(zip(patch, weights, strict=True), start=1)
        ],
    )
    values = Table(
        ["feature map", *(f"column {number}" for number in range(1, feature_map.shape[1] + 1))],
        [(f"row {number}", *values) for number, values in enumerate(feature_map.tolist(), start=1)],
    )
    strongest = float(feature_map[row, column])
    takeaways = [
        f"The strongest answer to {pattern} is {strongest:.4g}, in row {row + 1}, column {column + 1}.",
        f"{feature_map.size} neurons share {SIZE * SIZE} weights and a bias.",
        f"PyTorch's map differs by {np.abs(feature_map - by_pytorch).max():.1g} at most.",
    ]
    svg = plot(pixels, weights, feature_map, (row, column))
    present("convolution", [steps, values], takeaways, svg)
    return strongest


@rc_context(STYLE)
def plot(pixels: Values, weights: Values, feature_map: Values, strongest: tuple[int, int]) -> str:
    """Draw the picture, the filter and the map; the strongest answer and its nine pixels are framed."""
    figure, panels = create_figure(3.0, columns=(8, 4, 7))
    row, column = strongest
    seen = [(row + i, column + j) for i in range(SIZE) for j in range(SIZE)]
    draw_grid(panels[0], pixels, "picture x", marked=seen, numbers=False)
    draw_grid(panels[1], weights, "filter W")
    answer = format_number(float(feature_map[strongest]))
    draw_grid(panels[2], feature_map, f"feature map f(W·x + b), at most {answer}", marked=[strongest])
    return render_svg(figure)


if __name__ == "__main__":
    convolution.fn()
