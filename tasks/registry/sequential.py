"""Set the significance level of each look, so that chance promotes a model in at most 5% of all years.

A look is a comparison of a challenger with the champion. Many challengers against one champion on the same
images are Dunnett's (1955) many treatments against one control: a champion that was unlucky on these images
looks weak beside every challenger, so the test statistics correlate. Equally good models of one recipe are
exchangeable, which makes the correlation 1/2. Challengers that resemble each other more than the champion
make it higher, and the rule conservative (Slepian 1962).

How many looks a year will have is not known beforehand, so time is what is shared out, as in alpha spending
(Lan and DeMets 1983): a budget of days grows by one per day up to `CAPACITY_DAYS`, and each look takes half
of it. A look that takes `d` days is tested as one of `(YEAR_DAYS + CAPACITY_DAYS) / d` equal ones per year.
At a steady pace a look takes the days since the last one. Of several within an hour, each takes half as many
as the one before, so trying again does not turn chance into a gain. Nothing but time refills the budget: no
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
"""days that a year can spend beyond its own: looks four times a year gain by them, weekly ones hardly lose"""
SHARE_PER_LOOK = 0.5
"""share of the budget that each look takes"""
MIN_DAYS = 1e-6
"""days that a look takes at least, however many looks there were in the same moment"""
EXCESS = 1.07
"""factor by which the least favorable mix of paces exceeds the error; for equal looks the level is exact"""

_DAY = dt.timedelta(days=1)
_LUCK = np.linspace(-9, 9, 361)
"""luck of the champion on the validation images, in standard errors: the nodes of the quadrature"""
_WEIGHTS = np.exp(-(_LUCK**2) / 2) * (_LUCK[1] - _LUCK[0]) / np.sqrt(2 * np.pi)
"""weight of each node: the density of a standard normal variable, times the distance of the nodes"""


@dataclass(frozen=True)
class Look:
    """A comparison of a challenger with the champion, as one of those of the 365 days that end with it."""

    number: int
    """position among these comparisons, from 1 on"""
    threshold: float
    """the highest p-value with which a challenger is promoted"""
    error_spent: float
    """chance of a false promotion at any of these looks, this one included; at most `1 - confidence`"""


def allocate_look(earlier: Sequence[dt.datetime], now: dt.datetime, confidence: float) -> Look:
    """Return the number and the threshold of a look at `now`.

    Args:
        earlier: times of the looks before this one, with time zone, in any order; a time after `now`, which a
            clock that was put back leaves, counts as `now`
        now: time of this look, with time zone
        confidence: lowest acceptable chance of a year without a false promotion
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a share between 0 and 1, not {confidence}")
    times = [*sorted(min(time, now) for time in earlier), now]
    # The level of a look is that of equal looks of its size, as many as a year and its reserve have room for.
    # Looks more than a year old no longer count towards the error, but did take from the budget.
    thresholds = [
        dunnett_level((YEAR_DAYS + CAPACITY_DAYS) / days, (1 - confidence) / EXCESS)
        for time, days in zip(times, _share_out_days(times), strict=True)
        if now - time < YEAR_DAYS * _DAY
    ]
    return Look(len(thresholds), thresholds[-1], any_false_promotion(thresholds))


def _share_out_days(times: Sequence[dt.datetime]) -> list[float]:
    """Return the days of the budget that each look takes; `times` are in ascending order."""
    # The budget is full at first: nothing was spent in the time before the first look.
    balance, taken = CAPACITY_DAYS, []
    for i, time in enumerate(times):
        if i:
            # Time refills the budget, up to its capacity: a long pause saves up no more.
            balance = min(balance + (time - times[i - 1]) / _DAY, CAPACITY_DAYS)
        # Half of what is left never empties the budget. The minimum keeps the level above zero, where many
        # looks in one moment would halve it without end.
        taken.append(max(SHARE_PER_LOOK * balance, MIN_DAYS))
        balance = max(balance - taken[-1], 0.0)
    return taken


def dunnett_level(looks: float, error: float) -> float:
    """Return the p-value to ask for at each of `looks`, so that any of them promotes with chance `error`.

    It holds for challengers that are no better than the one champion with which they are compared. `looks`
    is 1 or more, and need not be whole.
    """

    # A challenger with the luck u beats a champion with the luck v by more than the critical value c, in
    # standard errors of a difference, where u - v > sqrt(2) * c. `log_ndtr` is the logarithm of the chance
    # that it does not, given v.
    def excess(critical: float) -> float:
        return _any_crossing(looks * log_ndtr(np.sqrt(2) * critical + _LUCK)) - error

    # Bonferroni's level is too strict, and bounds the search.
    level = max(error / looks, np.finfo(float).tiny)
    return float(ndtr(-brentq(excess, -ndtri(error) - 1e-6, -ndtri(level) + 1e-6, xtol=1e-10)))


def any_false_promotion(thresholds: Sequence[float]) -> float:
    """Return the chance that any of several looks at these thresholds promotes a challenger no better."""
    critical = -ndtri(np.asarray(thresholds, np.float64))
    return _any_crossing(log_ndtr(np.sqrt(2) * critical[:, None] + _LUCK).sum(0))


def _any_crossing(log_none: NDArray[np.float64]) -> float:
    """Return the chance that any challenger passes, from the log chance that none does, given each luck."""
    return float(-(_WEIGHTS * np.expm1(log_none)).sum())
