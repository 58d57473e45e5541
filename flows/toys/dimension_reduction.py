"""Dimension reduction: three variables become two without losing much.

The talk's example has length, speed and width, and aggregates length and width to "size". Principal
component analysis (PCA) finds such aggregates: the directions, the principal components, along which the
data vary most. Variables that vary together share a component. Elimination, the talk's other way, leaves a
variable out as it is.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from matplotlib import rc_context
from pydantic import Field

from flows.run.tables import Table
from flows.toys.base import (
    NonNegativeFloat,
    Values,
    create_figure,
    format_number,
    present,
    toy_flow,
    toy_task,
)
from tasks.params.types import Seed
from tasks.reporting.svg import BLUE, MUTED, ORANGE, STYLE, render_svg

VARIABLES = ("length", "speed", "width")


@dataclass(frozen=True)
class Components:
    """Principal components, the one with the largest variance first."""

    directions: Values
    """`(components, variables)`, each of length 1"""
    variances: Values
    """`(components,)`"""


@toy_task
def measure_vehicles(count: int, noise: float, seed: int) -> Values:
    """Draw length, speed and width `(count, 3)`: long vehicles are wide, and may be fast or slow."""
    generator = np.random.default_rng(seed)
    size, speed = generator.standard_normal((2, count))
    length = 4.5 + 1.2 * size
    width = 1.9 + 0.3 * size + 0.3 * noise * generator.standard_normal(count)
    return np.stack([length, 120 + 30 * speed, width], axis=1)


@toy_task
def standardize(values: Values) -> Values:
    """Take off each variable's mean and divide by its standard deviation, so that units do not count."""
    spread = values.std(0)
    if (spread < 1e-12).any():
        raise ValueError("a variable does not vary, so it can be eliminated before")
    standardized: Values = (values - values.mean(0)) / spread
    return standardized


@toy_task
def find_components(standardized: Values) -> Components:
    """Compute the eigenvectors and eigenvalues of the covariance matrix `(variables, variables)`.

    An eigenvector's sign is arbitrary; here its largest entry is positive.
    """
    covariance = standardized.T @ standardized / len(standardized)
    variances, vectors = np.linalg.eigh(covariance)
    directions = vectors.T[::-1]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    return Components(directions * np.sign(largest), variances[::-1])


@toy_task
def project(standardized: Values, components: Components, keep: int) -> Values:
    """Compute the new variables `(N, keep)`: each is the sum of the old ones, weighted by its direction."""
    projected: Values = standardized @ components.directions[:keep].T
    return projected


@toy_task
def measure_loss(standardized: Values, components: Components, keep: int) -> float:
    """Return the share of the variance that is lost if only `keep` components are kept."""
    kept = project(standardized, components, keep)
    rebuilt = kept @ components.directions[:keep]
    return float(((standardized - rebuilt) ** 2).sum() / (standardized**2).sum())


@toy_flow
def dimension_reduction(
    count: Annotated[int, Field(ge=10, le=2000)] = 120, noise: NonNegativeFloat = 0.3, seed: Seed = 0
) -> float:
    """Reduce length, speed and width to size and speed, and measure what is lost.

    Args:
        count: the number of vehicles
        noise: how far the width is from what the length says; with much of it, nothing can be left out
        seed: the seed of the measurements
    """
    vehicles = measure_vehicles(count, noise, seed)
    standardized = standardize(vehicles)
    components = find_components(standardized)
    losses = [measure_loss(standardized, components, keep) for keep in (1, 2, 3)]
    names = [_name(direction) for direction in components.directions]

    table = Table(
        ["component", "is", *VARIABLES, "variance", "lost if it is the last"],
        [
            (f"PC{k + 1}", names[k], *direction, float(components.variances[k]), f"{losses[k]:.1%}")
            for k, direction in enumerate(components.directions.tolist())
        ],
    )
    eliminated = 1 / len(VARIABLES)
    takeaways = [
        f"Two components instead of three variables lose {losses[1]:.1%} of the variance.",
        f"To leave out one of the variables loses its {eliminated:.0%}, unless another variable tells it.",
        "PC1 aggregates length and width, which vary together: nobody told PCA that this is called size.",
    ]
    present(
        "dimension_reduction",
        [table],
        takeaways,
        plot(vehicles, project(standardized, components, 2), components),
    )
    return losses[1]


def _name(direction: Values) -> str:
    """Describe a component by the variables that count in it."""
    parts = [name for name, weight in zip(VARIABLES, direction, strict=True) if abs(weight) > 0.5]
    signs = {np.sign(weight) for weight in direction if abs(weight) > 0.5}
    if parts == ["length", "width"]:
        return "size" if len(signs) == 1 else "length against width"
    return " and ".join(parts) or "a bit of each"


@rc_context(STYLE)
def plot(vehicles: Values, projected: Values, components: Components) -> str:
    """Draw length against width, the new variables, and the variance of each component."""
    figure, (old, new, bars) = create_figure(2.8, columns=(1.2, 1.2, 0.8))
    old.plot(vehicles[:, 0], vehicles[:, 2], "o", color=MUTED, markersize=3)
    old.set(xlabel="length", ylabel="width", title="two of three variables")
    new.plot(projected[:, 1], projected[:, 0], "o", color=BLUE, markersize=3)
    new.set(xlabel="PC2", ylabel="PC1", title="two new ones")
    shares = components.variances / components.variances.sum()
    bars.bar(range(3), shares, color=[BLUE, BLUE, ORANGE], width=0.6)
    bars.set_xticks(range(3), ["PC1", "PC2", "PC3"])
    bars.set(title="variance", yticks=[], ylim=(0, 1.25 * float(shares.max())))
    bars.grid(visible=False)
    for k, share in enumerate(shares):
        bars.annotate(
            f"{format_number(100 * float(share))}%",
            (k, float(share)),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    for panel in (old, new, bars):
        panel.title.set_size(10)
    return render_svg(figure)


if __name__ == "__main__":
    dimension_reduction.fn()
