"""What future rewards are worth (slide "Reinforcement Learning", with its example of chess).

The reward of the talk's move, a bishop takes a rook, is +5 pawns. What follows it counts the less, the
smaller the discount factor γ is: R = Σ γ^i · r_i. The talk's two ends: γ = 0 leaves nothing of the future,
and with γ = 1 the future counts as much as the present.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from flows.toys import figures
from flows.toys.base import BoundedFloat, Probability, Table, publish, toy_flow, toy_task
from models.toys.discounted_return import discount_rewards

Rewards = Annotated[Sequence[BoundedFloat], Field(min_length=1, max_length=40)]
DiscountFactors = Annotated[Sequence[Probability], Field(min_length=1, max_length=6)]


@toy_task
def discount(rewards: Sequence[float], gamma: float) -> list[float]:
    return discount_rewards(rewards, gamma)


@toy_task
def add_up(values: Sequence[float]) -> float:
    return sum(values)


@toy_flow
def discounted_return(
    rewards: Rewards = (5.0, -3.0, 0.0, -5.0, 0.0, 9.0), gammas: DiscountFactors = (0.0, 0.9, 1.0)
) -> list[float]:
    """R = Σ γ^i · r_i for each γ.

    Args:
        rewards: a reward a move, in pawns: bishop takes rook (+5), the bishop is lost (-3), …
        gammas: discount factors, each from 0 to 1
    """
    rows = [(gamma, discount(rewards, gamma)) for gamma in gammas]
    returns = [add_up(values) for _, values in rows]

    table = Table(
        ["γ", *(f"γ^{i}·r{i}" for i in range(len(rewards))), "R"],
        [
            ("", *rewards, ""),
            *((gamma, *row, total) for (gamma, row), total in zip(rows, returns, strict=True)),
        ],
    )
    says = [_explain(gamma, total, rewards) for gamma, total in zip(gammas, returns, strict=True)]
    publish("discounted_return", [table], says, figures.discounted_return(rewards, rows))
    return returns


def _explain(gamma: float, total: float, rewards: Sequence[float]) -> str:
    if gamma == 0:
        return f"γ = 0: R = {total:g}, the first reward; the future counts nothing."
    if gamma == 1:
        return f"γ = 1: R = {total:g}, the plain sum; the future counts as much as the present."
    last = len(rewards) - 1
    return f"γ = {gamma:g}: R = {total:.4g}; a reward {last} moves away counts {gamma**last:.2g} of one now."


if __name__ == "__main__":
    discounted_return.fn()
