"""Errors of looks against simulated calendars; tests against tables, enumeration and SciPy."""

import datetime as dt
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, multinomial, norm  # type: ignore[attr-defined]

from tasks.registry.significance import (
    RESERVE,
    YEAR,
    Look,
    allocate_look,
    compute_power,
    count_images_for,
    find_detectable_gain,
    holm,
    margin_p_value,
    mcnemar_exact,
    paired_accuracy,
)

START = dt.datetime(2026, 1, 5, 3, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
WEEKLY = 0.05 * (7 * DAY / (YEAR + RESERVE))


def look_every(step: dt.timedelta, count: int) -> Look:
    """The last of `count` looks."""
    times = [START + i * step for i in range(count)]
    return allocate_look(times[:-1], times[-1], 0.95)


def test_first_look_takes_half_of_a_full_budget() -> None:
    look = allocate_look([], START, 0.95)
    assert look == Look(1, look.error, look.error)
    assert look.error == pytest.approx(0.05 * 45.5 / (365 + 91))


@pytest.mark.parametrize(("days", "number"), [(1, 365), (7, 53)])
def test_steady_looks_take_the_days_since_the_last(days: int, number: int) -> None:
    look = look_every(days * DAY, 800 // days)
    assert look.number == number
    assert look.error == pytest.approx(0.05 * days / (365 + 91))
    assert 0.039 < look.error_spent < 0.05


def test_looks_within_one_moment_take_half_as_much_each() -> None:
    first, *others = (look_every(dt.timedelta(0), count).error for count in (1, 2, 3))
    assert others == pytest.approx([first / 2, first / 4])
    assert look_every(dt.timedelta(0), 2000).error_spent == pytest.approx(2 * first)


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
def test_errors_of_any_rolling_year_add_up_to_at_most_5_percent(seed: int) -> None:
    """Paces mixed at random, bursts among them."""
    chance = random.Random(seed)
    times = [START]
    while times[-1] < START + 900 * DAY:
        pace = chance.choice([0.001, 0.3, 3, 14, 50, 90])
        times += [times[-1] + pace * DAY * (i + chance.random()) for i in range(chance.randint(1, 12))]
        times.sort()
    errors = [allocate_look(times[:i], time, 0.95).error for i, time in enumerate(times)]
    for i in range(0, len(times), 9):
        spent = sum(errors[j] for j in range(i + 1) if times[i] - times[j] < YEAR)
        assert allocate_look(times[:i], times[i], 0.95).error_spent == pytest.approx(spent)
        assert spent <= 0.05


def test_year_of_equal_challengers_promotes_one_in_at_most_5_percent() -> None:
    """Simulated from images: three kinds of difficulty, a champion that stays until it is replaced."""
    years, generator = 4000, np.random.default_rng(0)
    sizes, right = np.array([3800, 800, 400]), np.array([0.995, 0.92, 0.6])
    champion = generator.binomial(sizes, right, (years, 3))
    false = np.zeros(years, bool)
    for _ in range(52):  # after its first false promotion a year counts no further
        better = generator.binomial(sizes - champion, right).sum(1)
        worse = generator.binomial(champion, 1 - right).sum(1)
        false |= binom.sf(better - 1, better + worse, 0.5) <= WEEKLY
    assert 0.01 < false.mean() < 0.04


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0])
def test_confidence_that_is_no_share_is_an_error(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        allocate_look([], START, confidence)


def test_paired_accuracy_counts_by_hand() -> None:
    challenger = np.array([True, True, True, False, False])
    champion = np.array([True, False, False, True, False])
    found = paired_accuracy(challenger, champion, 0.95)
    assert (found.images, found.challenger_accuracy, found.champion_accuracy) == (5, 3 / 5, 2 / 5)
    assert (found.discordant_challenger, found.discordant_champion, found.accuracy_gain) == (2, 1, 1 / 5)
    assert found.gain_interval == pytest.approx(
        (1 / 7 - 1.96 * math.sqrt((5 / 7 - 1 / 49) / 7), 0.760), abs=1e-3
    )


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_exact_is_the_binomial_tail(challenger_only: int, champion_only: int) -> None:
    n = challenger_only + champion_only
    tail = sum(math.comb(n, k) for k in range(challenger_only, n + 1)) / 2**n
    assert mcnemar_exact(challenger_only, champion_only) == pytest.approx(tail)


def test_interval_of_a_gain_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    p12, p21, n, hits, trials = 0.06, 0.04, 1000, 0, 1000
    for _ in range(trials):
        kinds = generator.choice(3, n, p=[p12, p21, 1 - p12 - p21])
        low, high = paired_accuracy(kinds == 0, kinds == 1, 0.95).gain_interval
        hits += low <= p12 - p21 <= high
    assert 0.93 < hits / trials < 0.97


@pytest.mark.parametrize("n", [30, 100, 300])
@pytest.mark.parametrize(("bound", "error"), [(-0.02, WEEKLY / 2), (-0.02, 0.05), (0.05, 0.005)])
def test_margin_p_value_keeps_its_error(n: int, bound: float, error: float) -> None:
    """By enumeration of all outcomes, where the gain is exactly the bound."""
    outcomes = [(wins, losses) for wins in range(n + 1) for losses in range(n + 1 - wins)]
    near = [pair for pair in outcomes if abs(pair[0] - pair[1] - n * bound) < 6 * math.sqrt(n)]
    found = np.array([pair for pair in near if margin_p_value(*pair, n, bound) <= error]).reshape(-1, 2)
    for spread in (0.001, 0.05, 0.2):
        p21 = max(-bound, 0) + spread
        losses = binom.pmf(found[:, 1], n, p21)
        chance = (losses * binom.pmf(found[:, 0], n - found[:, 1], (p21 + bound) / (1 - p21))).sum()
        assert chance <= 1.25 * error


@pytest.mark.parametrize("bound", [-0.1, -0.02, 0.03])
@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (9, 0), (3, 1), (10, 10), (4, 20), (40, 25), (60, 5), (0, 30)]
)
def test_margin_p_value_is_the_more_cautious_of_two_published_tests(
    wins: int, losses: int, bound: float
) -> None:
    """Tango's score test, whose likelihood is maximized numerically, and Bonett and Price's interval."""
    n = 150

    def log_likelihood(p21: float) -> float:
        shares = (p21 + bound, p21, 1 - 2 * p21 - bound)
        counts = (wins, losses, n - wins - losses)
        return sum(k * math.log(p) for k, p in zip(counts, shares, strict=True) if k)

    low, high = max(0.0, -bound), (1 - bound) / 2
    p21 = float(
        minimize_scalar(
            lambda p: -log_likelihood(p), bounds=(low + 1e-12, high - 1e-12), options={"xatol": 1e-10}
        ).x
    )
    tango = ((wins - losses) / n - bound) / math.sqrt((2 * p21 + bound - bound**2) / n)
    more_wins, more_losses = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    variance = (more_wins + more_losses - (more_wins - more_losses) ** 2) / (n + 2)
    bonett_price = (more_wins - more_losses - bound) / math.sqrt(variance)
    expected = max(norm.sf(tango), norm.sf(bonett_price))
    assert margin_p_value(wins, losses, n, bound) == pytest.approx(expected, rel=1e-3)


def test_margin_p_value_at_a_bound_of_zero_is_close_to_mcnemars() -> None:
    assert margin_p_value(310, 250, 5000, 0) == pytest.approx(mcnemar_exact(310, 250), rel=0.15)
    assert margin_p_value(0, 0, 50, -0.02) > 0.2, "few images exclude no loss, even if both models agree"


def test_holm_rejects_step_by_step() -> None:
    assert holm({7: 0.02, 8: 0.001, 9: 0.03, 10: 0.9}, 0.05) == [8]
    assert holm({7: 0.016, 8: 0.001, 9: 0.024, 10: 0.9}, 0.05) == [8, 7, 9]
    assert holm({7: 0.04, 8: 0.045}, 0.05) == [], "the second is not tested after the first is kept"
    assert holm({7: 0.05}, 0.05) == [7]
    assert holm({}, 0.05) == []


def test_compute_power_is_the_share_of_simulated_tests() -> None:
    generator = np.random.default_rng(0)
    gain, discordance, n = 0.02, 0.25, 5000
    shares = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    wins, losses, _ = generator.multinomial(n, shares, 20_000).T
    found = (binom.sf(wins - 1, wins + losses, 0.5) <= WEEKLY).mean()
    assert compute_power(gain, n, discordance, WEEKLY) == pytest.approx(found, abs=0.01)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize(("gain", "discordance"), [(0.3, 0.5), (0.8, 0.5), (1.0, 1.0)])
def test_compute_power_of_few_images_is_the_sum_over_all_outcomes(
    n: int, gain: float, discordance: float
) -> None:
    discordance = max(gain, discordance)
    shares = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    for threshold in (0.6, 0.3, 0.04):
        outcomes = [(wins, losses) for wins in range(n + 1) for losses in range(n + 1 - wins)]
        found = [pair for pair in outcomes if mcnemar_exact(*pair) <= threshold]
        expected = sum(multinomial.pmf([*pair, n - sum(pair)], n, shares) for pair in found)
        assert compute_power(gain, n, discordance, threshold) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("n", [100, 1000, 5000])
def test_find_detectable_gain_has_the_power_asked_for(n: int) -> None:
    for probability in (0.5, 0.9):
        gain = find_detectable_gain(n, 0.25, WEEKLY, probability)
        assert gain is not None
        assert compute_power(gain, n, 0.25, WEEKLY) == pytest.approx(probability, abs=0.02)
        assert count_images_for(gain, 0.25, WEEKLY, probability) == pytest.approx(n, rel=0.12)


def test_find_detectable_gain_of_too_few_images_is_none() -> None:
    assert find_detectable_gain(8, 0.25, WEEKLY, 0.5) is None
