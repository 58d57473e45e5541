"""Compare the accuracies of two models on the same images: difference, confidence interval, test."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest


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
    challenger_only = int((challenger_correct & ~champion_correct).sum())
    champion_only = int((champion_correct & ~challenger_correct).sum())
    n = len(challenger_correct)
    return PairedAccuracy(
        images=n,
        challenger_accuracy=float(challenger_correct.mean()),
        champion_accuracy=float(champion_correct.mean()),
        discordant_challenger=challenger_only,
        discordant_champion=champion_only,
        accuracy_gain=(challenger_only - champion_only) / n,
        gain_interval=bonett_price_interval(challenger_only, champion_only, n, confidence),
    )


def mcnemar_exact(challenger_only: int, champion_only: int) -> float:
    """Return the one-sided p-value of McNemar's exact test.

    It is the probability of at least this gain if both models were equally good.
    """
    discordant = challenger_only + champion_only
    if discordant == 0:
        return 1.0
    return float(binomtest(challenger_only, discordant, 0.5, alternative="greater").pvalue)


def bonett_price_interval(
    challenger_only: int, champion_only: int, n: int, confidence: float
) -> tuple[float, float]:
    """Return the adjusted Wald interval of Bonett and Price (2012) of the difference of paired shares."""
    p12, p21 = (challenger_only + 1) / (n + 2), (champion_only + 1) / (n + 2)
    half_width = float(ndtri((1 + confidence) / 2)) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    return max(p12 - p21 - half_width, -1.0), min(p12 - p21 + half_width, 1.0)
