import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.toys.discounted_return import discounted_return as toy
from models.toys.discounted_return import discount_rewards, discounted_return
from tasks.workspace.errors import InputError

REWARDS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20)
FACTORS = st.floats(0, 1)


def test_by_hand() -> None:
    rewards = [5.0, -3.0, 9.0]  # a bishop takes a rook, is lost, then a queen is won
    assert discount_rewards(rewards, 0.5) == [5, -1.5, 2.25]
    assert discounted_return(rewards, 0.5) == 5.75
    assert discounted_return(rewards, 0.5, start=1) == 0.75, "as on the slide: γ^i from the game's beginning"


@given(REWARDS)
def test_the_talks_two_ends(rewards: list[float]) -> None:
    assert discounted_return(rewards, 0) == rewards[0]
    assert discounted_return(rewards, 1) == pytest.approx(math.fsum(rewards), abs=1e-6)


@given(REWARDS, FACTORS)
def test_is_a_polynomial_in_gamma(rewards: list[float], gamma: float) -> None:
    expected = np.polynomial.polynomial.polyval(gamma, rewards)
    assert discounted_return(rewards, gamma) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(REWARDS, FACTORS)
def test_now_is_the_reward_and_the_discounted_rest(rewards: list[float], gamma: float) -> None:
    rest = discounted_return(rewards[1:], gamma)
    assert discounted_return(rewards, gamma) == pytest.approx(rewards[0] + gamma * rest, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_factor_has_to_be_from_0_to_1(gamma: float) -> None:
    with pytest.raises(ValueError, match="should be from 0 to 1"):
        discount_rewards([1.0], gamma)
    with pytest.raises(InputError, match=r"^discounted_return: gammas\.0 should be "):
        toy.fn(gammas=[gamma])


def test_reward_has_to_be_a_number() -> None:
    with pytest.raises(ValueError, match="the reward of step 1 should be a finite number, not nan"):
        discount_rewards([1.0, math.nan], 0.5)
    with pytest.raises(ValueError, match="start at step 0 or later"):
        discounted_return([1.0], 0.5, start=-1)
    for rewards in (["5"], [], [math.nan]):
        with pytest.raises(InputError, match=r"^discounted_return: rewards"):
            toy.fn(rewards=rewards)
