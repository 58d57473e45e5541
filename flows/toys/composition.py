"""Composition: edges make parts, and parts make an object.

This is about the slide "Wieso werden Neuronale Netze in Layer geordnet ?" (why do networks have layers?).
The talk says that many structures are composed of lower-level ones: a face of eyes and a nose, an eye of a
pupil. Here three layers with fixed weights find a square: the first finds edges, the second corners, which
are two edges that meet, and the third the object, which is four corners in the right places. Each layer
looks only at the layer before it. In a trained network nobody fixes the weights; its maps are in
`reports/network.html`.
"""

from typing import Literal

import numpy as np
import torch
from matplotlib import rc_context
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.run.tables import Table
from flows.toys.base import Values, create_figure, draw_grid, parse_picture, present, toy_flow, toy_task
from tasks.reporting.svg import STYLE, render_svg

EMPTY = ".........."
SIDES = "..#....#.."
PICTURES = {
    "square": (EMPTY, "..######..", SIDES, SIDES, SIDES, SIDES, "..######..", EMPTY),
    "cross": (EMPTY, *["....##...."] * 2, *[".########."] * 2, *["....##...."] * 2, EMPTY),
    "open": (EMPTY, "..######..", *["..#......."] * 4, "..######..", EMPTY),
    "lines": (EMPTY, "..######..", *[EMPTY] * 4, "..######..", EMPTY),
}
EDGES = {
    "from here to the right": ((0, 0, 0), (0, 1, 1), (0, 0, 0)),
    "from here to the left": ((0, 0, 0), (1, 1, 0), (0, 0, 0)),
    "from here down": ((0, 0, 0), (0, 1, 0), (0, 1, 0)),
    "from here up": ((0, 1, 0), (0, 1, 0), (0, 0, 0)),
}
RIGHT, LEFT, DOWN, UP = range(4)
CORNERS = {
    "upper left": (RIGHT, DOWN, LEFT, UP),
    "upper right": (LEFT, DOWN, RIGHT, UP),
    "lower left": (RIGHT, UP, LEFT, DOWN),
    "lower right": (LEFT, UP, RIGHT, DOWN),
}
"""the two edges that a corner has, then the two that it must not have"""
SPAN = 5  # pixels between the corners of the square


@toy_task
def find_edges(picture: Values) -> Values:
    """Return a map `(4, rows, columns)` per direction: 1 where a line leaves a pixel in that direction.

    Each is a neuron of nine weights: both pixels count 1, and the bias of -1 silences a single one.
    """
    filters = torch.tensor(list(EDGES.values()), dtype=torch.float64)[:, None]
    x = torch.from_numpy(picture)[None, None]
    maps: Values = F.relu(F.conv2d(x, filters, torch.full((4,), -1.0, dtype=torch.float64), padding=1))[
        0
    ].numpy()
    return maps


@toy_task
def find_corners(edges: Values) -> Values:
    """Return a map per corner: `ReLU(edge + edge - other edge - other edge - 1)`, 1 where two edges meet."""
    maps = []
    for first, second, third, fourth in CORNERS.values():
        maps.append(np.maximum(0, edges[first] + edges[second] - edges[third] - edges[fourth] - 1))
    return np.stack(maps)


@toy_task
def find_object(corners: Values) -> Values:
    """Return a map `(rows - 5, columns - 5)`: 1 where a square begins, that is where all four corners are.

    The weights are 1 at the places of the four corners, and the bias of -3 lets pass only all of them.
    """
    top, bottom = slice(None, -SPAN), slice(SPAN, None)
    four = (
        corners[0][top, top] + corners[1][top, bottom] + corners[2][bottom, top] + corners[3][bottom, bottom]
    )
    found: Values = np.maximum(0, four - 3)
    return found


@toy_flow
def composition(picture: Literal["square", "cross", "open", "lines"] = "square") -> float:
    """Find edges, from them corners, and from those a square of 6x6 pixels.

    Args:
        picture: the picture; only one of them has a square
    """
    pixels = parse_picture(PICTURES[picture])
    edges = find_edges(pixels)
    corners = find_corners(edges)
    found = find_object(corners)
    answer = float(found.max())

    table = Table(
        ["layer", "finds", "active places"],
        [
            *(("1: edges", f"a line {name}", float((edges[k] > 0).sum())) for k, name in enumerate(EDGES)),
            *(
                ("2: parts", f"a corner, {name}", float((corners[k] > 0).sum()))
                for k, name in enumerate(CORNERS)
            ),
            ("3: object", "a square", float((found > 0).sum())),
        ],
    )
    kinds = int((corners > 0).any((1, 2)).sum())
    takeaways = [
        f"The picture has {'a' if answer else 'no'} square: {kinds} of 4 kinds of corners were found.",
        "The last neuron never looks at pixels: it knows what the layers before it found.",
    ]
    present("composition", [table], takeaways, plot(pixels, edges, corners, found))
    return answer


@rc_context(STYLE)
def plot(picture: Values, edges: Values, corners: Values, found: Values) -> str:
    """Draw the picture and the maps of the three layers; each map of a layer has a sign of its own."""
    figure, panels = create_figure(2.3, columns=(1, 1, 1, 1))
    draw_grid(panels[0], picture, "picture", numbers=False)
    draw_grid(panels[1], edges.sum(0), "1: edges", numbers=False)
    draw_grid(panels[2], corners.sum(0), "2: corners", numbers=False)
    whole = np.zeros(picture.shape)
    whole[: found.shape[0], : found.shape[1]] = found
    spots = [(int(row), int(column)) for row, column in np.argwhere(found > 0)]
    draw_grid(panels[3], whole, "3: the square" if spots else "3: no square", marked=spots, numbers=False)
    return render_svg(figure)


if __name__ == "__main__":
    composition.fn()
