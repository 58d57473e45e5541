"""Challenger against champion: which of two exported models is to serve, decided on the validation split.

The test split takes no part in any decision; its accuracy is reported beside it.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import binomtest

from tasks.inference.onnx_classifier import read_model
from tasks.workspace.errors import RunError
from tasks.workspace.splits import read_splits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.inference.onnx_classifier import Model
    from tasks.params import Compare
    from tasks.workspace.splits import Splits, Subset


THREADS = 2


@dataclass(frozen=True)
class Evidence:
    """What a decision rests on. Accuracies are shares; a gain is the challenger's less the champion's."""

    val_sha256: str
    """of the validation images and labels"""
    challenger_val_accuracy: float
    challenger_test_accuracy: float
    parity_max_abs_diff: float
    parity_argmax_agreement: float
    champion_val_accuracy: float | None = None
    champion_test_accuracy: float | None = None
    only_challenger_right: int | None = None
    only_champion_right: int | None = None
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    p_value: float | None = None
    latency_ratio: float | None = None
    """the challenger's time for a picture over the champion's"""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Decision:
    promote: bool
    why: str
    evidence: Evidence


def compare(
    challenger: Path,
    champion: Path | None,
    splits: Path,
    parity: dict[str, Any],
    options: Compare,
    *,
    champion_val_sha256: str | None = None,
) -> Decision:
    """Decide whether the challenger takes the champion's place.

    It does where its file agrees with PyTorch (`parity`, as the benchmark wrote it), where it is right more
    often on the validation images by at least `options.margin`, where an exact one-sided McNemar test on the
    images on which the two differ gives that gain `options.confidence`, and where a picture takes it at most
    `options.max_latency_ratio` times as long. The first champion needs the first of these alone.

    `champion_val_sha256` is the validation split that the champion was promoted on: on another one the two
    cannot be compared, since the champion may have been trained on its images.
    """
    data = read_splits(splits)
    images, labels = data.val.images.numpy(), data.val.labels.numpy()
    new = read_model(challenger, THREADS)
    old = None if champion is None else read_model(champion, THREADS)
    evidence: dict[str, Any] = {
        "val_sha256": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        "challenger_val_accuracy": float(_right(new, data.val).mean()),
        "challenger_test_accuracy": float(_right(new, data.test).mean()),
        "parity_max_abs_diff": float(parity["max_abs_diff"]),
        "parity_argmax_agreement": float(parity["argmax_agreement"]),
    }
    unfair = None
    if old is not None and old.classes != new.classes:
        unfair = f"it has other classes than the champion: {', '.join(new.classes)}"
    elif champion_val_sha256 not in {None, evidence["val_sha256"]}:
        unfair = (
            "the validation split is another than the champion's, whose training images may be in it; "
            "nothing fair can be said"
        )
    elif old is not None:
        evidence |= _paired(new, old, data, options.confidence)
    found = Evidence(**evidence)
    objection = next(_objections(found, unfair, options), None)
    if objection is not None:
        return Decision(promote=False, why=objection, evidence=found)
    if found.gain is None:
        return Decision(promote=True, why="the first model", evidence=found)
    why = f"{found.gain:+.2%} on validation (p = {found.p_value:.2g})"
    return Decision(promote=True, why=why, evidence=found)


def _paired(new: Model, old: Model, data: Splits, confidence: float) -> dict[str, Any]:
    new_right, old_right = _right(new, data.val), _right(old, data.val)
    better, worse = int((new_right & ~old_right).sum()), int((old_right & ~new_right).sum())
    return {
        "champion_val_accuracy": float(old_right.mean()),
        "champion_test_accuracy": float(_right(old, data.test).mean()),
        "only_challenger_right": better,
        "only_champion_right": worse,
        "gain": (better - worse) / len(new_right),
        "gain_interval": paired_interval(better, worse, len(new_right), confidence),
        "p_value": mcnemar(better, worse),
        "latency_ratio": _latency_ratio(new, old, data.val.images[:1].numpy()),
    }


def _objections(found: Evidence, unfair: str | None, options: Compare) -> Iterator[str]:
    """What stands against the challenger, the gravest first."""
    if found.parity_argmax_agreement < 1 or found.parity_max_abs_diff > options.parity_tolerance:
        yield (
            f"the exported model is not PyTorch's: {found.parity_argmax_agreement:.2%} of the classes agree, "
            f"probabilities differ by up to {found.parity_max_abs_diff:.1e}"
        )
    if unfair is not None:
        yield unfair
    if found.gain is None or found.p_value is None or found.latency_ratio is None:
        return
    if found.gain <= 0 or found.gain < options.margin:
        asked = f"{options.margin:.2%} or more" if options.margin else "a gain"
        yield f"{found.gain:+.2%} on validation, and {asked} is asked for"
    if found.p_value > 1 - options.confidence:
        yield (
            f"{found.gain:+.2%} on validation may be chance (p = {found.p_value:.2g}, asked for: "
            f"{1 - options.confidence:.2g} or less)"
        )
    if found.latency_ratio > options.max_latency_ratio:
        yield (
            f"a picture takes {found.latency_ratio:.2f} times as long as the champion needs "
            f"(allowed: {options.max_latency_ratio:g})"
        )


def mcnemar(better: int, worse: int) -> float:
    """One-sided p of McNemar's exact test: how likely a gain as large is, were both models equally good."""
    if better + worse == 0:
        return 1.0
    return float(binomtest(better, better + worse, 0.5, alternative="greater").pvalue)


def paired_interval(better: int, worse: int, n: int, confidence: float) -> tuple[float, float]:
    """For the difference of two paired shares: the adjusted Wald interval of Bonett and Price (2012)."""
    p12, p21 = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    return max(p12 - p21 - half, -1.0), min(p12 - p21 + half, 1.0)


def _right(model: Model, subset: Subset) -> NDArray[np.bool_]:
    """Of each image, whether its class is the likeliest."""
    right: NDArray[np.bool_] = model.classify(subset.images.numpy()).argmax(1) == subset.labels.numpy()
    return right


def _latency_ratio(new: Model, old: Model, picture: NDArray[np.uint8]) -> float:
    """Median over rounds in which the two take turns, so that a change of the machine's speed hits both."""
    ratios = []
    for _ in range(9):
        seconds = []
        for model in (new, old):
            model.classify(picture)
            began = time.perf_counter()
            for _ in range(100):
                model.classify(picture)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    ratio = float(np.median(ratios))
    if not math.isfinite(ratio):
        raise RunError("the time that a picture takes could not be measured")
    return ratio
