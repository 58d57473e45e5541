"""What future rewards are worth (slide "Reinforcement Learning", with its example of chess).

The reward of the talk's move, a bishop takes a rook, is +5 pawns. Later rewards count the less, the smaller
the discount factor γ is: R = Σ γ^i · r_i. The talk shows both ends: with γ = 0 nothing is left of the future,
and with γ = 1 the future counts as much as the present.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from pydantic import Field

from flows.run.tables import Table
from flows.toys.base import (
    BoundedFloat,
    Probability,
    create_figure,
    format_number,
    present,
    toy_flow,
    toy_task,
)
from flows.toys.neuron import add_up
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, STYLE, render_svg

Rewards = Annotated[Sequence[BoundedFloat], Field(min_length=1, max_length=40)]
DiscountFactors = Annotated[Sequence[Probability], Field(min_length=1, max_length=6)]


@toy_task
def discount(rewards: Sequence[float], gamma: float) -> list[float]:
    """Compute `γ^i · r_i` for each step i; γ must be from 0 to 1, and each reward a finite number.

    As on the slide, the exponent counts from the beginning of the game.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"the discount factor should be from 0 to 1, not {gamma}")
    for step, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise ValueError(f"the reward of step {step} should be a finite number, not {reward}")
    return [gamma**step * reward for step, reward in enumerate(rewards)]


@toy_flow
def discounted_return(
    rewards: Rewards = (5.0, -3.0, 0.0, -5.0, 0.0, 9.0), gammas: DiscountFactors = (0.0, 0.9, 1.0)
) -> list[float]:
    """Compute R = Σ γ^i · r_i for each γ.

    Args:
        rewards: one reward per move, in pawns: bishop takes rook (+5), the bishop is lost (-3), …
        gammas: discount factors, each from 0 to 1
    """
    rows = [(gamma, discount(rewards, gamma)) for gamma in gammas]
    returns = [add_up(values) for _, values in rows]

    table = Table(
        ["γ", *(f"γ^{i}·r{i}" for i in range(len(rewards))), "R"],
        [
            ("reward", *rewards, ""),
            *((gamma, *row, total) for (gamma, row), total in zip(rows, returns, strict=True)),
        ],
    )
    takeaways = [_explain(gamma, total, rewards) for gamma, total in zip(gammas, returns, strict=True)]
    present("discounted_return", [table], takeaways, plot(rewards, rows))
    return returns


def _explain(gamma: float, total: float, rewards: Sequence[float]) -> str:
    if gamma == 0:
        return f"γ = 0: R = {total:g}, the first reward; the future counts nothing."
    if gamma == 1:
        return f"γ = 1: R = {total:g}, the plain sum; the future counts as much as the present."
    last = len(rewards) - 1
    return f"γ = {gamma:g}: R = {total:.4g}; a reward {last} moves away counts {gamma**last:.2g} of one now."


@rc_context(STYLE)
def plot(rewards: Sequence[float], rows: Sequence[tuple[float, list[float]]]) -> str:
    """Draw the discounted rewards, in one panel per row (γ, `γ^i·r_i` for each i)."""
    figure, panels = create_figure(0.55 + 1.15 * len(rows), rows=(1,) * len(rows))
    panels = np.atleast_1d(panels)
    steps = range(len(rewards))
    reach = 1.35 * max(map(abs, rewards), default=1.0) or 1.0
    for panel, (gamma, values) in zip(panels, rows, strict=True):
        _plot_rewards(panel, rewards, values)
        panel.set(ylim=(-reach, reach), ylabel=f"γ = {gamma:g}", xlim=(-0.6, len(rewards) - 0.4))
        panel.yaxis.label.set_color(INK)
        panel.grid(visible=False)
        panel.set_yticks([0], [""])
        panel.set_xticks(steps, [""] * len(rewards))
        panel.text(
            1.01,
            0.5,
            f"R = {format_number(sum(values))}",
            transform=panel.transAxes,
            va="center",
            fontsize=12,
            color=BLUE,
        )
    panels[-1].set_xticks(steps, [str(step) for step in steps])
    panels[-1].set_xlabel("step i (dotted: the reward itself)")
    return render_svg(figure)


def _plot_rewards(axes: Axes, rewards: Sequence[float], discounted: Sequence[float]) -> None:
    steps = range(len(rewards))
    axes.bar(steps, rewards, color="none", edgecolor=MUTED, linestyle=":", width=0.62)
    axes.bar(steps, discounted, color=[BLUE if value >= 0 else ORANGE for value in discounted], width=0.62)
    for step, value in enumerate(discounted):
        if value:
            axes.annotate(
                f"{value:+.3g}".replace("-", "−"),
                (step, max(value, rewards[step], 0)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    axes.axhline(0, color=MUTED, linewidth=1)


if __name__ == "__main__":
    discounted_return.fn()
