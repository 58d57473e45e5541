"""Two models on the same images: their difference in accuracy, its interval and its test."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest


@dataclass(frozen=True)
class PairedAccuracy:
    """Accuracies are shares; the gain is the challenger's minus the champion's."""

    images: int
    challenger_accuracy: float
    champion_accuracy: float
    discordant_challenger: int
    """images that only the challenger classifies correctly"""
    discordant_champion: int
    accuracy_gain: float
    gain_interval: tuple[float, float]
    """of this comparison alone, by Bonett and Price"""


def paired_accuracy(
    challenger_correct: NDArray[np.bool_], champion_correct: NDArray[np.bool_], confidence: float
) -> PairedAccuracy:
    """From what each model classifies correctly, `(N,)`, N of 1 or more."""
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
    """One-sided p of McNemar's exact test: the probability of such a gain, were both models equally good."""
    discordant = challenger_only + champion_only
    if discordant == 0:
        return 1.0
    return float(binomtest(challenger_only, discordant, 0.5, alternative="greater").pvalue)


def bonett_price_interval(
    challenger_only: int, champion_only: int, n: int, confidence: float
) -> tuple[float, float]:
    """For the difference of two paired shares: the adjusted Wald interval of Bonett and Price (2012)."""
    p12, p21 = (challenger_only + 1) / (n + 2), (champion_only + 1) / (n + 2)
    half_width = float(ndtri((1 + confidence) / 2)) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    return max(p12 - p21 - half_width, -1.0), min(p12 - p21 + half_width, 1.0)
