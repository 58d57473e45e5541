"""The significance level of each look: together, a year of them promotes by chance with 5% at most.

A look is a comparison of a challenger with the champion. Many challengers against one champion on the same
images are Dunnett's (1955) many treatments against one control: a champion that was unlucky on these images
looks weak beside every challenger, so the test statistics correlate. Equally good models of one recipe are
exchangeable, which makes the correlation 1/2. Challengers that resemble each other more than the champion
make it higher, and the rule conservative (Slepian 1962).

How many looks a year will have is not known beforehand, so time is what is shared out, as in alpha spending
(Lan and DeMets 1983): a budget of days fills by one per day up to `CAPACITY_DAYS`, and each look takes half
of it. A look that takes `d` days is tested as one of `(YEAR_DAYS + CAPACITY_DAYS) / d` equal ones per year.
At a steady pace it takes the days since the last look; of several within an hour, each takes half as many as
the one before, so trying again does not turn chance into a gain. Nothing but time refills the budget: no
promotion, rollback or larger validation split.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

YEAR_DAYS = 365.0
CAPACITY_DAYS = 91.0
"""What a year can spend beyond its own days: looks four times a year gain by it, weekly ones hardly lose"""
SHARE_PER_LOOK = 0.5
MIN_DAYS = 1e-6
"""that a look takes, however many there were in the same moment"""
EXCESS = 1.07
"""by which the least favorable mix of paces would exceed the error; for equal looks the level is exact"""

_DAY = dt.timedelta(days=1)
_LUCK = np.linspace(-9, 9, 361)
"""of the champion on the validation images, in standard errors: the nodes of the quadrature"""
_WEIGHTS = np.exp(-(_LUCK**2) / 2) * (_LUCK[1] - _LUCK[0]) / np.sqrt(2 * np.pi)


@dataclass(frozen=True)
class Look:
    """A comparison of a challenger with the champion, among those of the 365 days that end with it."""

    number: int
    """counted from 1"""
    threshold: float
    """the p-value that a promotion needs"""
    error_spent: float
    """chance of a false promotion at any of these looks, this one included; `1 - confidence` at most"""


def allocate_look(earlier: Sequence[dt.datetime], now: dt.datetime, confidence: float) -> Look:
    """Number and threshold of a look at `now`.

    Args:
        earlier: times of the looks before it, with time zone, in any order; one after `now`, as of a clock
            that was put back, counts as `now`
        now: with time zone
        confidence: chance of a year without a false promotion, at least
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a share between 0 and 1, not {confidence}")
    times = [*sorted(min(time, now) for time in earlier), now]
    thresholds = [
        dunnett_level((YEAR_DAYS + CAPACITY_DAYS) / days, (1 - confidence) / EXCESS)
        for time, days in zip(times, _share_out_days(times), strict=True)
        if now - time < YEAR_DAYS * _DAY
    ]
    return Look(len(thresholds), thresholds[-1], any_false_promotion(thresholds))


def _share_out_days(times: Sequence[dt.datetime]) -> list[float]:
    """The days of the budget that each look takes; `times` ascend."""
    balance, taken = CAPACITY_DAYS, []
    for i, time in enumerate(times):
        if i:
            balance = min(balance + (time - times[i - 1]) / _DAY, CAPACITY_DAYS)
        taken.append(max(SHARE_PER_LOOK * balance, MIN_DAYS))
        balance = max(balance - taken[-1], 0.0)
    return taken


def dunnett_level(looks: float, error: float) -> float:
    """The p-value to ask for at each of `looks`, so that any of them promotes with probability `error`.

    All challengers are against one champion and no better than it. `looks` is 1 or more, whole or not.
    """

    def excess(critical: float) -> float:
        return _any_crossing(looks * log_ndtr(np.sqrt(2) * critical + _LUCK)) - error

    level = max(error / looks, np.finfo(float).tiny)  # Bonferroni's, which is too strict
    return float(ndtr(-brentq(excess, -ndtri(error) - 1e-6, -ndtri(level) + 1e-6, xtol=1e-10)))


def any_false_promotion(thresholds: Sequence[float]) -> float:
    """The chance that one of several looks at these thresholds promotes a challenger that is no better."""
    critical = -ndtri(np.asarray(thresholds, np.float64))
    return _any_crossing(log_ndtr(np.sqrt(2) * critical[:, None] + _LUCK).sum(0))


def _any_crossing(log_none: NDArray[np.float64]) -> float:
    """From the log probability, at each luck of the champion, that no challenger passes."""
    return float(-(_WEIGHTS * np.expm1(log_none)).sum())
