"""The looks' levels, against Dunnett's table, SciPy's multivariate normal and simulated years."""

import datetime as dt
import itertools
import math
import random

import numpy as np
import pytest
from scipy.special import bdtrc, ndtri
from scipy.stats import multivariate_normal

from tasks.registry.sequential import (
    CAPACITY_DAYS,
    EXCESS,
    YEAR_DAYS,
    Look,
    allocate_look,
    any_false_promotion,
    dunnett_level,
)

START = dt.datetime(2026, 1, 5, 3, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def level_of_days(days: float) -> float:
    return dunnett_level((YEAR_DAYS + CAPACITY_DAYS) / days, 0.05 / EXCESS)


def look_every(step: dt.timedelta, count: int) -> Look:
    """The last of `count` looks."""
    times = [START + i * step for i in range(count)]
    return allocate_look(times[:-1], times[-1], 0.95)


# Dunnett (1955), table 1a: one-sided critical values at 5% for infinitely many degrees of freedom.
@pytest.mark.parametrize(
    ("looks", "critical"),
    [(1, 1.64), (2, 1.92), (3, 2.06), (4, 2.16), (5, 2.23), (6, 2.29), (7, 2.34), (8, 2.38), (9, 2.42)],
)
def test_dunnett_level_of_published_table_agrees(looks: int, critical: float) -> None:
    assert -ndtri(dunnett_level(looks, 0.05)) == pytest.approx(critical, abs=0.005)


@pytest.mark.parametrize("error", [0.5, 0.05, 0.001, 1e-9])
def test_dunnett_level_of_one_look_is_the_error(error: float) -> None:
    assert dunnett_level(1, error) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("error", [0.3, 0.05, 1e-6])
@pytest.mark.parametrize("looks", [2, 52, 1000.5, 1e6])
def test_dunnett_level_lies_between_bonferroni_and_one_look(looks: float, error: float) -> None:
    assert error / looks < dunnett_level(looks, error) < error


def test_any_false_promotion_of_different_thresholds_is_that_of_a_multivariate_normal() -> None:
    thresholds = [0.03, 0.002, 0.01, 0.0005]
    covariance = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    none = multivariate_normal.cdf(-ndtri(thresholds), cov=covariance, rng=np.random.default_rng(0))
    assert any_false_promotion(thresholds) == pytest.approx(1 - none, abs=2e-5)


def test_any_false_promotion_of_one_threshold_is_the_threshold() -> None:
    assert any_false_promotion([0.0123]) == pytest.approx(0.0123, rel=1e-9)


def test_first_look_takes_half_of_a_full_budget() -> None:
    look = allocate_look([], START, 0.95)
    assert look.number == 1
    assert look.threshold == pytest.approx(level_of_days(CAPACITY_DAYS / 2))
    assert look.error_spent == pytest.approx(look.threshold)


@pytest.mark.parametrize(("days", "number"), [(1, 365), (7, 53)])
def test_steady_looks_take_the_days_since_the_last(days: int, number: int) -> None:
    look = look_every(days * DAY, 800 // days)
    assert look.number == number
    assert look.threshold == pytest.approx(level_of_days(days))
    assert 0.04 < look.error_spent < 0.05


def test_looks_within_one_moment_take_half_as_much_each() -> None:
    levels = [look_every(dt.timedelta(0), count).threshold for count in (1, 2, 3)]
    assert levels == pytest.approx([level_of_days(CAPACITY_DAYS * share) for share in (1 / 2, 1 / 4, 1 / 8)])
    assert look_every(dt.timedelta(0), 2000).error_spent < 0.02


def test_long_pause_fills_the_budget_and_no_more() -> None:
    look = allocate_look([START, START + DAY], START + 5000 * DAY, 0.95)
    assert look == allocate_look([], START, 0.95)


def test_order_and_clock_of_earlier_looks_do_not_matter() -> None:
    earlier = [START + 3 * DAY, START, START + DAY]
    now = START + 4 * DAY
    look = allocate_look(earlier, now, 0.95)
    assert look == allocate_look(sorted(earlier), now, 0.95)
    elsewhere = [time.astimezone(dt.timezone(dt.timedelta(hours=9))) for time in earlier]
    assert look == allocate_look(elsewhere, now, 0.95)


def test_look_later_than_now_counts_as_now() -> None:
    assert allocate_look([START + 9 * DAY], START, 0.95) == allocate_look([START], START, 0.95)


@pytest.mark.parametrize("seed", range(10))
def test_any_rolling_year_spends_at_most_the_error(seed: int) -> None:
    """Paces mixed at random, bursts among them."""
    chance = random.Random(seed)
    times = [START]
    while times[-1] < START + 900 * DAY:
        pace = chance.choice([0.001, 0.3, 3, 14, 50, 90])
        times += [times[-1] + pace * DAY * (i + chance.random()) for i in range(chance.randint(1, 12))]
        times.sort()
    for i in range(0, len(times), 9):
        assert allocate_look(times[:i], times[i], 0.95).error_spent < 0.05


def test_year_of_equal_challengers_promotes_one_in_at_most_5_percent() -> None:
    """Simulated from images: three kinds of difficulty, a champion that stays until it is replaced."""
    years, generator = 4000, np.random.default_rng(0)
    sizes, right = np.array([3800, 800, 400]), np.array([0.995, 0.92, 0.6])
    times = [START + week * 7 * DAY for week in range(104)]
    levels = [allocate_look(times[:week], times[week], 0.95).threshold for week in range(52, 104)]
    champion = generator.binomial(sizes, right, (years, 3))
    false = np.zeros(years, bool)
    for level in levels:  # after its first false promotion a year counts no further
        better = generator.binomial(sizes - champion, right).sum(1)
        worse = generator.binomial(champion, 1 - right).sum(1)
        false |= bdtrc(better - 1, better + worse, 0.5) <= level
    standard_error = math.sqrt(0.05 * 0.95 / years)
    assert false.mean() < 0.05 + 2 * standard_error
    assert false.mean() > 0.025, "half of the error would be wasted, as with Bonferroni"


def test_least_favorable_mix_of_paces_stays_below_the_error() -> None:
    """Any two paces, in any shares of all days that a year can spend."""
    total = YEAR_DAYS + CAPACITY_DAYS
    levels = {days: level_of_days(days) for days in (0.1, 1, 7, CAPACITY_DAYS / 2)}
    worst = max(
        any_false_promotion([levels[a]] * int(share * total / a) + [levels[b]] * int((1 - share) * total / b))
        for a, b in itertools.combinations(levels, 2)
        for share in (0.0, 0.35, 0.7, 1.0)
    )
    assert 0.045 < worst < 0.05


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0])
def test_confidence_that_is_no_share_is_an_error(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        allocate_look([], START, confidence)
