import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.toys.discounted_return import discount

REWARDS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20)
FACTORS = st.floats(0, 1)


def test_discounted_return_matches_hand_calculation() -> None:
    rewards = [5.0, -3.0, 9.0]  # a bishop takes a rook, is lost, then a queen is won
    assert discount(rewards, 0.5) == [5, -1.5, 2.25]
    assert sum(discount(rewards, 0.5)) == 5.75


@given(REWARDS)
def test_discounted_return_gamma_0_is_the_first_reward_and_1_the_sum(rewards: list[float]) -> None:
    assert sum(discount(rewards, 0)) == rewards[0]
    assert sum(discount(rewards, 1)) == pytest.approx(math.fsum(rewards), abs=1e-6)


@given(REWARDS, FACTORS)
def test_discounted_return_is_numpys_polynomial_in_gamma(rewards: list[float], gamma: float) -> None:
    expected = np.polynomial.polynomial.polyval(gamma, rewards)
    assert sum(discount(rewards, gamma)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(REWARDS, FACTORS)
def test_discounted_return_is_the_reward_plus_the_discounted_rest(rewards: list[float], gamma: float) -> None:
    rest = sum(discount(rewards[1:], gamma))
    assert sum(discount(rewards, gamma)) == pytest.approx(rewards[0] + gamma * rest, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_discount_gamma_outside_0_to_1_raises(gamma: float) -> None:
    with pytest.raises(ValueError, match="should be from 0 to 1"):
        discount([1.0], gamma)


def test_discount_invalid_reward_raises() -> None:
    with pytest.raises(ValueError, match="the reward of step 1 should be a finite number, not nan"):
        discount([1.0, math.nan], 0.5)
