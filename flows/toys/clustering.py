"""Clustering beside classification (slide "Classification vs. Clustering ?").

The talk's inhabitants of a new planet have a height and a number of legs. Without labels, k-means groups
them: each point goes to the nearest center, each center to the mean of its points, until nothing changes.
With labels, the nearest class mean is a classifier. Clusters have numbers and no names: nobody said what a
species is called.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Annotated

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from numpy.typing import NDArray
from pydantic import Field

from flows.run.tables import Table
from flows.toys.base import NonNegativeFloat, Values, create_figure, present, toy_flow, toy_task
from tasks.params.types import Seed
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, STYLE, render_svg

Labels = NDArray[np.int64]
SPECIES = {"Ambler": (1.2, 2.0), "Strider": (2.6, 4.0), "Crawler": (0.8, 6.0)}
"""height in meters and number of legs"""
MAX_ROUNDS = 100


@dataclass(frozen=True)
class Clusters:
    """The result of k-means."""

    labels: Labels
    """`(N,)`: the number of each point's cluster"""
    centers: Values
    """`(k, 2)`"""
    rounds: int


@toy_task
def meet_inhabitants(count: int, spread: float, seed: int) -> tuple[Values, Labels]:
    """Draw height and legs `(N, 2)` and the species `(N,)` of inhabitants, `count` of each species.

    Legs are measured, so that they are numbers with a comma, and both are scaled to a similar range.
    """
    generator = np.random.default_rng(seed)
    means = np.array([(height, legs / 2) for height, legs in SPECIES.values()])
    points = np.repeat(means, count, axis=0)
    species = np.repeat(np.arange(len(means)), count)
    return points + spread * generator.standard_normal(points.shape), species


@toy_task
def find_nearest(points: Values, centers: Values) -> Labels:
    """Return the number `(N,)` of each point's nearest center."""
    distances = ((points[:, None] - centers[None]) ** 2).sum(2)
    nearest: Labels = distances.argmin(1)
    return nearest


def compute_means(points: Values, labels: Labels, old: Values) -> Values:
    """Return the mean `(k, 2)` of each group's points; a group without points keeps its old center."""
    return np.array(
        [points[labels == k].mean(0) if (labels == k).any() else center for k, center in enumerate(old)]
    )


@toy_task
def cluster(points: Values, k: int, seed: int) -> Clusters:
    """Group the points by k-means (Lloyd), from `k` of the points as the first centers."""
    if not 1 <= k <= len(points):
        raise ValueError(f"{len(points)} points make 1 to {len(points)} clusters, not {k}")
    return run_k_means(points, spread_centers(points, k, seed))


def spread_centers(points: Values, k: int, seed: int) -> Values:
    """Choose a point at random, then again and again the point that is farthest from all chosen ones."""
    chosen = [int(np.random.default_rng(seed).integers(len(points)))]
    while len(chosen) < k:
        distances = ((points[:, None] - points[chosen][None]) ** 2).sum(2).min(1)
        chosen.append(int(distances.argmax()))
    return points[chosen]


def run_k_means(points: Values, centers: Values) -> Clusters:
    """Move the centers until none moves any more, or `MAX_ROUNDS` are over."""
    labels, rounds = find_nearest(points, centers), 1
    while rounds < MAX_ROUNDS:
        moved = compute_means(points, labels, centers)
        if np.array_equal(moved, centers):
            break
        labels, centers, rounds = find_nearest(points, moved), moved, rounds + 1
    return Clusters(labels, centers, rounds)


@toy_task
def match_clusters(labels: Labels, species: Labels) -> float:
    """Return the largest share of points in the cluster of their species, over all ways to name clusters."""
    count = max(int(labels.max()), int(species.max())) + 1
    return max(float((np.array(names)[labels] == species).mean()) for names in permutations(range(count)))


@toy_flow
def clustering(
    clusters: Annotated[int, Field(ge=1, le=5)] = 3,
    count: Annotated[int, Field(ge=2, le=200)] = 30,
    spread: NonNegativeFloat = 0.22,
    seed: Seed = 0,
) -> float:
    """Group inhabitants of a new planet without labels, and classify them with labels.

    Args:
        clusters: k, the number of clusters to look for; nobody knows that there are three species
        count: the number of inhabitants of each species
        spread: the standard deviation within a species
        seed: the seed of the inhabitants and of the first center
    """
    points, species = meet_inhabitants(count, spread, seed)
    found = cluster(points, clusters, seed)
    class_means = compute_means(points, species, np.zeros((len(SPECIES), 2)))
    predicted = find_nearest(points, class_means)
    matched, accuracy = match_clusters(found.labels, species), float((predicted == species).mean())

    table = Table(
        ["group", *SPECIES],
        [
            (f"cluster {k + 1}", *(float(((found.labels == k) & (species == s)).sum()) for s in range(3)))
            for k in range(clusters)
        ],
    )
    methods = Table(
        ["method", "labels", "answer", "agrees with the species"],
        [
            ("clustering: k-means", "none", "a number", f"{matched:.1%}, if clusters are named afterwards"),
            ("classification: nearest mean", "all", "a name", f"{accuracy:.1%}"),
        ],
    )
    takeaways = [
        f"k-means needed {found.rounds} rounds and no label; what a cluster means, a person has to say.",
        "With another k it finds another number of groups, whether they exist or not.",
    ]
    present("clustering", [table, methods], takeaways, plot(points, species, found, class_means))
    return matched


@rc_context(STYLE)
def plot(points: Values, species: Labels, found: Clusters, class_means: Values) -> str:
    """Draw the points as they come, grouped by k-means, and classified by their labels."""
    figure, panels = create_figure(2.9, columns=(1, 1, 1))
    panels[0].plot(*points.T, "o", color=MUTED, markersize=3.5)
    _plot_groups(panels[1], points, found.labels, found.centers, None)
    _plot_groups(panels[2], points, species, class_means, list(SPECIES))
    titles = ("no labels: what we see", "clustering: k-means", "classification: with labels")
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xticks=[], yticks=[], xlim=_limits(points[:, 0]), ylim=_limits(points[:, 1]))
        panel.title.set_size(9)
        panel.grid(visible=False)
        panel.set_xlabel("height")
    panels[0].set_ylabel("legs")
    return render_svg(figure)


def _limits(values: Values) -> tuple[float, float]:
    margin = 0.3 * float(np.ptp(values)) or 1.0
    return float(values.min()) - margin / 2, float(values.max()) + margin


def _plot_groups(
    axes: Axes, points: Values, labels: Labels, centers: Values, names: list[str] | None
) -> None:
    styles = (("o", BLUE), ("s", ORANGE), ("^", INK), ("v", MUTED), ("D", BLUE))
    for k, (center, (marker, color)) in enumerate(zip(centers, styles, strict=False)):
        own, name = points[labels == k], names[k] if names else None
        axes.plot(own[:, 0], own[:, 1], marker, color=color, markersize=3.5, label=name)
        axes.plot(*center, "+", color=INK, markersize=11, markeredgewidth=2)
    if names:
        axes.legend(loc="lower right", frameon=False, fontsize=8, handletextpad=0.1)


if __name__ == "__main__":
    clustering.fn()
