"""Test whether a challenger is better than a champion on the same images, or not worse by more than a margin.

A *look* is a comparison of a challenger with the champion. `compare.confidence` is a promise about a year:
with at least this probability, none of its looks promotes a challenger by chance. A union bound keeps it,
whatever the models have in common: the errors of a year's looks add up to at most `1 - confidence`. How many
looks a year will have is not known beforehand, so its days are what is shared out, as in alpha spending (Lan
and DeMets 1983).
"""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom, binomtest  # type: ignore[attr-defined]

YEAR = dt.timedelta(days=365)
RESERVE = dt.timedelta(days=91)
"""time that the budget holds at most: looks four times a year gain by it, weekly ones lose little"""


@dataclass(frozen=True)
class Look:
    """A comparison of a challenger with the champion, as one of those of the 365 days that end with it."""

    number: int
    """position among these comparisons, from 1 on"""
    error: float
    """chance that this look promotes a challenger that is no better"""
    error_spent: float
    """sum of the errors of these comparisons, this one included; at most `1 - confidence`"""


def allocate_look(earlier: Sequence[dt.datetime], now: dt.datetime, confidence: float) -> Look:
    """Return the error of a look at `now`.

    Args:
        earlier: times of the looks before this one, with time zone, in any order; a time after `now`, which a
            clock that was put back leaves, counts as `now`
        now: time of this look, with time zone
        confidence: lowest acceptable chance of a year without a false promotion
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a share between 0 and 1, not {confidence}")
    times = [*sorted(min(time, now) for time in earlier), now]
    # The budget is full at first. Each look takes half of it, and leaves the other half. Time refills it, up
    # to the reserve. So the looks of any 365 days take at most these days and a reserve, and their errors,
    # shares of both, add up to at most `1 - confidence`.
    budget, errors = RESERVE, []
    for time, before in zip(times, [times[0], *times], strict=False):
        budget = min(budget + (time - before), RESERVE) / 2
        if now - time < YEAR:
            errors.append((1 - confidence) * (budget / (YEAR + RESERVE)))
    return Look(len(errors), errors[-1], sum(errors))


Correct = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""whether the challenger and another model classify each image correctly, two `(N,)`"""


def count_discordant(correct: Correct) -> tuple[int, int]:
    """Return how many images only the challenger, and only the other model, classifies correctly."""
    challenger, other = correct
    return int((challenger & ~other).sum()), int((other & ~challenger).sum())


@dataclass(frozen=True)
class PairedAccuracy:
    """The accuracies of a challenger and a champion on the same images.

    Accuracies are shares; the gain is the challenger's accuracy minus the champion's.
    """

    images: int
    challenger_accuracy: float
    champion_accuracy: float
    discordant_challenger: int
    """number of images that only the challenger classifies correctly"""
    discordant_champion: int
    """number of images that only the champion classifies correctly"""
    accuracy_gain: float
    gain_interval: tuple[float, float]
    """confidence interval of the gain in this comparison alone, by Bonett and Price"""


def paired_accuracy(
    challenger_correct: NDArray[np.bool_], champion_correct: NDArray[np.bool_], confidence: float
) -> PairedAccuracy:
    """Compare two models by whether each classifies image after image correctly: two `(N,)`, N >= 1."""
    challenger_only, champion_only = count_discordant((challenger_correct, champion_correct))
    n = len(challenger_correct)
    gain, deviation = _adjust(challenger_only, champion_only, n)
    half_width = float(ndtri((1 + confidence) / 2)) * deviation
    return PairedAccuracy(
        images=n,
        challenger_accuracy=float(challenger_correct.mean()),
        champion_accuracy=float(champion_correct.mean()),
        discordant_challenger=challenger_only,
        discordant_champion=champion_only,
        accuracy_gain=(challenger_only - champion_only) / n,
        gain_interval=(max(gain - half_width, -1.0), min(gain + half_width, 1.0)),
    )


def _adjust(challenger_only: int, champion_only: int, n: int) -> tuple[float, float]:
    """Return the gain and its standard deviation by Bonett and Price (2012): two images more of each kind."""
    p12, p21 = (challenger_only + 1) / (n + 2), (champion_only + 1) / (n + 2)
    return p12 - p21, math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))


def mcnemar_exact(challenger_only: int, champion_only: int) -> float:
    """Return the one-sided p-value of McNemar's exact test.

    It is the probability of at least this gain if both models were equally good.
    """
    discordant = challenger_only + champion_only
    if discordant == 0:
        return 1.0
    return float(binomtest(challenger_only, discordant, 0.5, alternative="greater").pvalue)


def compare_with_guessing(correct: NDArray[np.bool_], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of the most frequent class, and the one-sided p-value of being no better than that.

    `correct` `(N,)` says whether a model classifies each image correctly, `labels` `(N,)` are the classes.
    """
    guessing = float(np.bincount(labels).max() / len(labels))
    return guessing, float(
        binomtest(int(correct.sum()), len(correct), guessing, alternative="greater").pvalue
    )


def margin_p_value(challenger_only: int, champion_only: int, n: int, bound: float) -> float:
    """Return the one-sided p-value of the hypothesis that the gain is `bound` or less.

    With a negative bound, a small p-value says that the challenger is not worse by more than this margin.
    """
    # Of two approximations the more cautious one counts. Tango's score test (1998) is too bold for gains from
    # few discordant images, and Bonett and Price's for few losses.
    a, b = 2 * n, -challenger_only - champion_only + (2 * n - challenger_only + champion_only) * bound
    c = -champion_only * bound * (1 - bound)
    p21 = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # most likely, given the bound
    deviation = math.sqrt(max((2 * p21 + bound * (1 - bound)) / n, 0.0))
    gain = (challenger_only - champion_only) / n
    score = (gain - bound) / deviation if deviation else 0.0
    adjusted_gain, adjusted_deviation = _adjust(challenger_only, champion_only, n)
    return float(ndtr(-min(score, (adjusted_gain - bound) / adjusted_deviation)))


def holm(p_values: Mapping[int, float], error: float) -> list[int]:
    """Return the keys whose hypotheses are rejected, the smallest p-value first, by Holm's method (1979).

    The chance of any false one among them is at most `error`.
    """
    rejected = []
    for i, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[key] > error / (len(p_values) - i):
            break
        rejected.append(key)
    return rejected


def compute_power(gain: float, n: int, discordance: float, threshold: float) -> float:
    """Return how probably McNemar's exact test finds a true gain, from `n` images.

    `discordance` is the share of images on which two equal models differ; a larger gain needs more of them.
    """
    discordance = min(max(discordance, gain, 1e-9), 1.0)
    counts = np.arange(*binom.interval(1 - 1e-9, n, discordance), dtype=np.int64)
    counts = np.append(counts, counts[-1:] + 1) if len(counts) else np.array([n])
    # `isf` is the smallest number of wins of which more would be significant.
    needed = binom.isf(threshold, counts, 0.5)
    found = binom.sf(needed, counts, (discordance + gain) / (2 * discordance))
    return float((binom.pmf(counts, n, discordance) * found).sum())


def find_detectable_gain(n: int, discordance: float, threshold: float, probability: float) -> float | None:
    """Return the smallest gain that the test finds with this probability; None where it finds none."""

    def excess(gain: float) -> float:
        return compute_power(gain, n, discordance, threshold) - probability

    if excess(1.0) < 0:
        return None
    return float(brentq(excess, 0.0, 1.0, xtol=1e-5)) if excess(0.0) < 0 else 0.0


def count_images_for(gain: float, discordance: float, threshold: float, probability: float) -> int:
    """Return about how many images the test needs to find a gain with this probability."""
    d = max(discordance, gain)
    root = float(-ndtri(threshold) * math.sqrt(d) + ndtri(probability) * math.sqrt(d - gain**2))
    return math.ceil((root / gain) ** 2)
