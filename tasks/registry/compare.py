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

from tasks.inference.onnx_classifier import load_model
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.inference.onnx_classifier import OnnxClassifier
    from tasks.params import CompareConfig
    from tasks.workspace.splits import Split, Splits


THREADS = 2


@dataclass(frozen=True)
class Comparison:
    """What a decision rests on. Accuracies are shares; a gain is the challenger's less the champion's."""

    val_sha256: str
    """of the validation images and labels"""
    challenger_val_accuracy: float
    challenger_test_accuracy: float
    parity_max_abs_diff: float
    parity_argmax_agreement: float
    champion_val_accuracy: float | None = None
    champion_test_accuracy: float | None = None
    discordant_challenger: int | None = None
    discordant_champion: int | None = None
    accuracy_gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    p_value: float | None = None
    latency_ratio: float | None = None
    """the challenger's time for a picture over the champion's"""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Decision:
    promote: bool
    reason: str
    evidence: Comparison


def compare(
    challenger: Path,
    champion: Path | None,
    splits: Path,
    parity: dict[str, Any],
    config: CompareConfig,
    *,
    champion_val_sha256: str | None = None,
) -> Decision:
    """Decide whether the challenger takes the champion's place.

    It does where its file agrees with PyTorch (`parity`, as the benchmark wrote it), where it is right more
    often on the validation images by at least `config.min_gain`, where an exact one-sided McNemar test on the
    images on which the two differ gives that gain `config.confidence`, and where a picture takes it at most
    `config.max_latency_ratio` times as long. The first champion needs the first of these alone.

    `champion_val_sha256` is the validation split that the champion was promoted on: on another one the two
    cannot be compared, since the champion may have been trained on its images.
    """
    data = load_splits(splits)
    images, labels = data.val.images.numpy(), data.val.labels.numpy()
    new = load_model(challenger, THREADS)
    old = None if champion is None else load_model(champion, THREADS)
    evidence: dict[str, Any] = {
        "val_sha256": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        "challenger_val_accuracy": float(_is_correct(new, data.val).mean()),
        "challenger_test_accuracy": float(_is_correct(new, data.test).mean()),
        "parity_max_abs_diff": float(parity["max_abs_diff"]),
        "parity_argmax_agreement": float(parity["argmax_agreement"]),
    }
    incomparable_reason = None
    if old is not None and old.classes != new.classes:
        incomparable_reason = f"it has other classes than the champion: {', '.join(new.classes)}"
    elif champion_val_sha256 not in {None, evidence["val_sha256"]}:
        incomparable_reason = (
            "the validation split is another than the champion's, whose training images may be in it; "
            "nothing fair can be said"
        )
    elif old is not None:
        evidence |= _paired_comparison(new, old, data, config.confidence)
    found = Comparison(**evidence)
    objection = next(_rejection_reasons(found, incomparable_reason, config), None)
    if objection is not None:
        return Decision(promote=False, reason=objection, evidence=found)
    if found.accuracy_gain is None:
        return Decision(promote=True, reason="the first model", evidence=found)
    why = f"{found.accuracy_gain:+.2%} on validation (p = {found.p_value:.2g})"
    return Decision(promote=True, reason=why, evidence=found)


def _paired_comparison(
    new: OnnxClassifier, old: OnnxClassifier, data: Splits, confidence: float
) -> dict[str, Any]:
    new_right, old_right = _is_correct(new, data.val), _is_correct(old, data.val)
    challenger_only, champion_only = int((new_right & ~old_right).sum()), int((old_right & ~new_right).sum())
    return {
        "champion_val_accuracy": float(old_right.mean()),
        "champion_test_accuracy": float(_is_correct(old, data.test).mean()),
        "discordant_challenger": challenger_only,
        "discordant_champion": champion_only,
        "gain": (challenger_only - champion_only) / len(new_right),
        "gain_interval": bonett_price_interval(challenger_only, champion_only, len(new_right), confidence),
        "p_value": mcnemar_exact(challenger_only, champion_only),
        "latency_ratio": _latency_ratio(new, old, data.val.images[:1].numpy()),
    }


def _rejection_reasons(found: Comparison, unfair: str | None, config: CompareConfig) -> Iterator[str]:
    """What stands against the challenger, the gravest first."""
    if found.parity_argmax_agreement < 1 or found.parity_max_abs_diff > config.parity_atol:
        yield (
            f"the exported model is not PyTorch's: {found.parity_argmax_agreement:.2%} of the classes agree, "
            f"probabilities differ by up to {found.parity_max_abs_diff:.1e}"
        )
    if unfair is not None:
        yield unfair
    if found.accuracy_gain is None or found.p_value is None or found.latency_ratio is None:
        return
    if found.accuracy_gain <= 0 or found.accuracy_gain < config.min_gain:
        asked = f"{config.min_gain:.2%} or more" if config.min_gain else "a gain"
        yield f"{found.accuracy_gain:+.2%} on validation, and {asked} is asked for"
    if found.p_value > 1 - config.confidence:
        yield (
            f"{found.accuracy_gain:+.2%} on validation may be chance (p = {found.p_value:.2g}, asked for: "
            f"{1 - config.confidence:.2g} or less)"
        )
    if found.latency_ratio > config.max_latency_ratio:
        yield (
            f"a picture takes {found.latency_ratio:.2f} times as long as the champion needs "
            f"(allowed: {config.max_latency_ratio:g})"
        )


def mcnemar_exact(better: int, worse: int) -> float:
    """One-sided p of McNemar's exact test: how likely a gain as large is, were both models equally good."""
    if better + worse == 0:
        return 1.0
    return float(binomtest(better, better + worse, 0.5, alternative="greater").pvalue)


def bonett_price_interval(better: int, worse: int, n: int, confidence: float) -> tuple[float, float]:
    """For the difference of two paired shares: the adjusted Wald interval of Bonett and Price (2012)."""
    p12, p21 = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    return max(p12 - p21 - half, -1.0), min(p12 - p21 + half, 1.0)


def _is_correct(model: OnnxClassifier, subset: Split) -> NDArray[np.bool_]:
    """Of each image, whether its class is the likeliest."""
    right: NDArray[np.bool_] = model.predict_proba(subset.images.numpy()).argmax(1) == subset.labels.numpy()
    return right


def _latency_ratio(new: OnnxClassifier, old: OnnxClassifier, picture: NDArray[np.uint8]) -> float:
    """Median over rounds in which the two take turns, so that a change of the machine's speed hits both."""
    ratios = []
    for _ in range(9):
        seconds = []
        for model in (new, old):
            model.predict_proba(picture)
            began = time.perf_counter()
            for _ in range(100):
                model.predict_proba(picture)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    ratio = float(np.median(ratios))
    if not math.isfinite(ratio):
        raise RunError("the time that a picture takes could not be measured")
    return ratio
