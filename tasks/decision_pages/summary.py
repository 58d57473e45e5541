"""Say in plain words what a comparison has found, and which gain it asked for."""

from collections.abc import Mapping
from typing import Any

from tasks.registry.ledger import LedgerEntry


def describe_result(entry: LedgerEntry, champion: LedgerEntry | None) -> str:
    """Say how many images the challenger gets right, and how many more than the champion."""
    evidence = entry.evidence
    n = evidence["val_images"]
    if "accuracy_gain" not in evidence:
        right = (
            f"The new model classifies {evidence['challenger_val_accuracy']:.1%} of {n:,} validation images"
        )
        if champion is None:
            return f"{right} correctly. No other model serves, so there is none to compare it with."
        return (
            f"{right} correctly. It was not compared with the model that serves, version {champion.version}."
        )
    better, worse = evidence["discordant_challenger"], evidence["discordant_champion"]
    difference = better - worse
    balance = f"{abs(difference):,} {'more' if difference > 0 else 'fewer'} are right"
    return (
        f"Of {n:,} validation images, the new model gets {better:,} right that the model that serves gets "
        f"wrong, and {worse:,} wrong that the other gets right: "
        f"{balance if difference else 'as many are right'} ({100 * difference / n:+.2f} points)."
    )


def describe_threshold(evidence: Mapping[str, Any], confidence: float) -> str:
    """Say what the gain was tested against; empty without a test."""
    if "threshold" not in evidence:
        return ""
    best = ""
    if "candidates" in evidence:
        best = f", and the model is the best of {evidence['candidates']:,} that were compared on these images"
    return (
        f"If both models were equally good, luck alone would bring a result at least as good as this one in "
        f"{format_chance(evidence['p_value'])} of all comparisons. For a promotion that must be at most "
        f"{format_chance(evidence['threshold'])}: this is comparison number {evidence['look']} of a "
        f"year{best}, and all comparisons of a year together may promote by luck in at most "
        f"{format_chance(1 - confidence)} of years."
    )


def list_tests(evidence: Mapping[str, Any], confidence: float) -> list[tuple[str, float, float | None]]:
    """Return question, p-value and the largest p-value that says yes, None where it decides nothing."""
    threshold = evidence.get("threshold")
    questions = (
        ("p_value", "better than the champion on all images (McNemar's exact test)", threshold),
        ("p_added", "better on the added images (McNemar's exact test)", threshold),
        ("p_own_not_worse", "not worse by compare.max_loss on the data set's own images", 1 - confidence),
        ("p_not_worse", "not worse than the reference by compare.max_loss", threshold),
        ("p_reference", "better than the reference, so that it becomes the next one", threshold),
    )
    return [(text, evidence[name], required) for name, text, required in questions if name in evidence]


def format_chance(share: float) -> str:
    """Write a small share in percent, with two significant digits."""
    if share < 1e-6:
        return "less than 0.0001%"
    return f"{float(f'{100 * share:.2g}'):g}%"
