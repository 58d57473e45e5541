"""Pooling: of 2x2 neighbors one value is left, so it matters less where exactly a pattern was.

A filter that has found its pattern says so at one place. Max pooling keeps the largest of four answers: a
quarter of the numbers is left, and a pattern that moves by a pixel often changes nothing. Mean pooling keeps
their mean, which a single strong answer hardly moves. PyTorch's `max_pool2d` and `avg_pool2d` give the same.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from matplotlib import rc_context
from pydantic import Field
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.run.tables import Table
from flows.toys.base import Values, create_figure, draw_grid, present, toy_flow, toy_task
from tasks.params.types import Seed
from tasks.reporting.svg import STYLE, render_svg

SIDE = 6
KEEP: dict[str, Callable[[Sequence[float]], float]] = {"max": max, "mean": lambda four: sum(four) / 4}
Shift = Annotated[int, Field(ge=0, le=3)]


@toy_task
def make_feature_map(seed: int) -> Values:
    """Make answers `(6, 6)` of a filter: from 0 to 2 where there is nothing, and 9 where the pattern is."""
    values = np.random.default_rng(seed).integers(0, 3, (SIDE, SIDE)).astype(float)
    values[2, 2] = 9
    return values


@toy_task
def shift_right(values: Values, pixels: int) -> Values:
    """Shift the map to the right, as it would be if the image were shifted; zeros come in on the left."""
    return np.pad(values, ((0, 0), (pixels, 0)))[:, : values.shape[1]]


@toy_task
def pool(values: Values, kind: str) -> Values:
    """Keep the maximum or the mean of each 2x2 values: `(rows / 2, columns / 2)`, a last odd one left out."""
    if min(values.shape) < 2:
        raise ValueError(f"pooling needs at least 2x2 values, not {values.shape}")
    keep = KEEP[kind]
    rows, columns = (size // 2 for size in values.shape)
    return np.array(
        [
            [
                keep(values[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist())
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


@toy_task
def pool_by_pytorch(values: Values, kind: str) -> Values:
    """Compute the same with PyTorch."""
    x = torch.from_numpy(values)[None, None]
    pooled: Values = (F.max_pool2d(x, 2) if kind == "max" else F.avg_pool2d(x, 2))[0, 0].numpy()
    return pooled


@toy_flow
def pooling(kind: Literal["max", "mean"] = "max", shift: Shift = 1, seed: Seed = 0) -> list[float]:
    """Pool a feature map of 6x6, then the same map after the image has moved.

    Args:
        kind: what is kept of four values, the largest or the mean
        shift: the pixels by which the image moves to the right
        seed: the seed of the answers around the pattern
    """
    before = make_feature_map(seed)
    after = shift_right(before, shift)
    maps = {"before": before, f"shifted by {shift}": after}
    pooled = {name: pool(values, kind) for name, values in maps.items()}
    difference = max(np.abs(pool_by_pytorch(maps[name], kind) - pooled[name]).max() for name in maps)

    table = Table(
        [f"{kind} of 2x2", *(f"column {number}" for number in (1, 2, 3))],
        [
            (f"{name}, row {number}", *row)
            for name, values in pooled.items()
            for number, row in enumerate(values.tolist(), start=1)
        ],
    )
    where = [divmod(int(values.argmax()), values.shape[1]) for values in pooled.values()]
    stays = "stays in the same place" if where[0] == where[1] else "moves to another place"
    strongest = [float(values.max()) for values in pooled.values()]
    takeaways = [
        (
            f"{SIDE * SIDE} values become {SIDE * SIDE // 4}. "
            f"The strongest, {strongest[0]:g}, {stays} if the image moves by {shift}."
        ),
        f"PyTorch's pooling differs by {difference:.1g} at most.",
    ]
    present("pooling", [table], takeaways, plot(maps, pooled, kind))
    return strongest


@rc_context(STYLE)
def plot(maps: dict[str, Values], pooled: dict[str, Values], kind: str) -> str:
    """Draw each map beside what pooling leaves of it."""
    figure, panels = create_figure(2.6, columns=(6, 4, 6, 4))
    for number, (name, values) in enumerate(maps.items()):
        draw_grid(panels[2 * number], values, name)
        draw_grid(panels[2 * number + 1], pooled[name], f"{kind} of 2x2")
    return render_svg(figure)


if __name__ == "__main__":
    pooling.fn()
