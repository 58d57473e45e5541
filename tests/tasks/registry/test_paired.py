import math
from statistics import NormalDist, fmean, pstdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.registry.paired import bonett_price_interval, mcnemar_exact, paired_accuracy


def test_paired_accuracy_counts_by_hand() -> None:
    challenger = np.array([True, True, True, False, False])
    champion = np.array([True, False, False, True, False])
    found = paired_accuracy(challenger, champion, 0.95)
    assert (found.images, found.challenger_accuracy, found.champion_accuracy) == (5, 3 / 5, 2 / 5)
    assert (found.discordant_challenger, found.discordant_champion, found.accuracy_gain) == (2, 1, 1 / 5)
    assert found.gain_interval == bonett_price_interval(2, 1, 5, 0.95)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_exact_is_the_binomial_tail(challenger_only: int, champion_only: int) -> None:
    n = challenger_only + champion_only
    tail = sum(math.comb(n, k) for k in range(challenger_only, n + 1)) / 2**n
    assert mcnemar_exact(challenger_only, champion_only) == pytest.approx(tail)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.sampled_from([0.8, 0.95, 0.99]))
def test_bonett_price_interval_is_walds_with_one_more_image_for_each_model(
    challenger_only: int, champion_only: int, same: int, confidence: float
) -> None:
    differences = [1] * (challenger_only + 1) + [-1] * (champion_only + 1) + [0] * same
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    half_width = quantile * pstdev(differences) / math.sqrt(len(differences))
    expected = max(fmean(differences) - half_width, -1), min(fmean(differences) + half_width, 1)
    n = challenger_only + champion_only + same
    assert bonett_price_interval(challenger_only, champion_only, n, confidence) == pytest.approx(expected)


def test_bonett_price_interval_is_never_wider_than_a_difference_can_be() -> None:
    assert bonett_price_interval(1, 0, 1, 0.95) == (pytest.approx(-0.7335, abs=1e-4), 1.0)
    assert bonett_price_interval(0, 1, 1, 0.95) == (-1.0, pytest.approx(0.7335, abs=1e-4))


def test_bonett_price_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    p12, p21, n, hits, trials = 0.06, 0.04, 1000, 0, 2000
    for _ in range(trials):
        challenger_only, champion_only, _ = random.multinomial(n, [p12, p21, 1 - p12 - p21])
        low, high = bonett_price_interval(int(challenger_only), int(champion_only), n, 0.95)
        hits += low <= p12 - p21 <= high
    assert 0.935 < hits / trials < 0.965
