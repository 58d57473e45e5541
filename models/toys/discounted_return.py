"""What future rewards are worth today (slide "Reinforcement Learning", with its formula for R_t)."""

import math
from collections.abc import Sequence


def discount_rewards(rewards: Sequence[float], gamma: float) -> list[float]:
    """`γ^i · r_i` for each step i. `ValueError` where γ is not in 0 to 1 or a reward not a number."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"the discount factor should be from 0 to 1, not {gamma}")
    for step, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise ValueError(f"the reward of step {step} should be a finite number, not {reward}")
    return [gamma**step * reward for step, reward in enumerate(rewards)]


def discounted_return(rewards: Sequence[float], gamma: float, start: int = 0) -> float:
    """`R_t = Σ γ^i r_i` over i from t = `start` on.

    As on the slide, the exponent counts from the beginning of the game, not from t; at t = 0, which the toy
    shows, both are the same. `ValueError` where `start` is negative.
    """
    if start < 0:
        raise ValueError(f"the sum should start at step 0 or later, not {start}")
    return sum(discount_rewards(rewards, gamma)[start:])
