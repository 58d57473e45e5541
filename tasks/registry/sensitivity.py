"""Say beforehand which gains the comparisons of a project can find: a small one learns it on day one."""

import datetime as dt
from collections.abc import Sequence

from tasks.params import CompareConfig
from tasks.registry.ledger import LedgerEntry
from tasks.registry.significance import RESERVE, YEAR, count_images_for, find_detectable_gain

USUAL_DISCORDANCE = 0.26
"""share of the images on which two trainings of the recipe `talk` differ on CIFAR-10, by their correctness"""
WANTED_GAIN = 0.01
LARGE_GAIN = 0.1
"""gain that a project has to find in half of its comparisons; otherwise it is told that it is too small"""
WEEK = dt.timedelta(days=7)


def measure_discordance(entries: Sequence[LedgerEntry]) -> float | None:
    """Return the share of the images on which the models of the last comparison differ; None without one."""
    for entry in reversed(entries):
        evidence = entry.evidence
        if {"discordant_challenger", "discordant_champion", "val_images"} <= evidence.keys():
            discordant = evidence["discordant_challenger"] + evidence["discordant_champion"]
            return max(int(discordant), 1) / int(evidence["val_images"])
    return None


def describe_sensitivity(
    val_images: int, config: CompareConfig, discordance: float | None = None
) -> tuple[bool, str]:
    """Return whether weekly comparisons can find a large gain, and a sentence about what they find."""
    threshold = (1 - config.confidence) * (WEEK / (YEAR + RESERVE))
    share = discordance or USUAL_DISCORDANCE
    half, most = (find_detectable_gain(val_images, share, threshold, chance) for chance in (0.5, 0.9))
    wanted = config.min_gain or WANTED_GAIN
    needed = count_images_for(wanted, share, threshold, 0.5)
    found = "no gain"
    if half is not None and most is not None:
        found = f"gains of {100 * half:.1f} points in half of the cases and {100 * most:.1f} in nine of ten"
    return half is not None and half <= LARGE_GAIN, (
        f"on {val_images:,} validation images, of which two models differ on {share:.0%}"
        f"{'' if discordance else ' (a guess)'}, weekly retrainings find {found}; to find {100 * wanted:.1f} "
        f"points in half of the cases takes {needed:,}"
    )
