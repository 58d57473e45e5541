"""Challenger against champion: decide, on the validation split, which exported model to serve.

The test split takes no part in any decision; its accuracy is reported beside it.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import ndtri
from scipy.stats import binomtest

from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.params import CompareConfig
    from tasks.workspace.splits import Split, Splits

NUM_THREADS = 2
"""of the models that are compared, so that their latencies can be"""


class ExportedModel(Protocol):
    """An exported model, such as `tasks.inference.onnx_classifier.load_model` gives."""

    @property
    def classes(self) -> Sequence[str]: ...

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Comparison:
    """What a decision is based on. Accuracies are shares; a gain is the challenger's minus the champion's."""

    val_sha256: str
    """of the validation images and labels"""
    challenger_val_accuracy: float
    challenger_test_accuracy: float
    parity_max_abs_diff: float
    parity_argmax_agreement: float
    champion_val_accuracy: float | None = None
    champion_test_accuracy: float | None = None
    discordant_challenger: int | None = None
    """validation images that only the challenger classifies correctly"""
    discordant_champion: int | None = None
    accuracy_gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    p_value: float | None = None
    latency_ratio: float | None = None
    """the challenger's time per image over the champion's"""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Decision:
    promote: bool
    reason: str
    evidence: Comparison


def compare(
    challenger: ExportedModel,
    champion: ExportedModel | None,
    splits: Path,
    parity: dict[str, Any],
    config: CompareConfig,
    *,
    champion_val_sha256: str | None = None,
) -> Decision:
    """Decide whether to promote the challenger.

    It is promoted where its file agrees with PyTorch (`parity`, as in the benchmark's file), where its
    validation accuracy is higher by at least `config.min_gain`, where an exact one-sided McNemar test on
    the discordant images gives that gain `config.confidence`, and where its latency is at most
    `config.max_latency_ratio` times the champion's. The first champion needs only the first of these.

    `champion_val_sha256` is the validation split that the champion was promoted on: on another one the two
    cannot be compared, since the champion may have been trained on its images.
    """
    data = load_splits(splits)
    images, labels = data.val.images.numpy(), data.val.labels.numpy()
    values: dict[str, Any] = {
        "val_sha256": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        "challenger_val_accuracy": float(_is_correct(challenger, data.val).mean()),
        "challenger_test_accuracy": float(_is_correct(challenger, data.test).mean()),
        "parity_max_abs_diff": float(parity["max_abs_diff"]),
        "parity_argmax_agreement": float(parity["argmax_agreement"]),
    }
    incomparable_reason = None
    if champion is not None and champion.classes != challenger.classes:
        incomparable_reason = f"its classes differ from the champion's: {', '.join(challenger.classes)}"
    elif champion_val_sha256 not in {None, values["val_sha256"]}:
        incomparable_reason = (
            "the validation split differs from the champion's, whose training images may be in it, "
            "so the models cannot be compared"
        )
    elif champion is not None:
        values |= _paired_comparison(challenger, champion, data, config.confidence)
    evidence = Comparison(**values)
    rejection = next(_rejection_reasons(evidence, incomparable_reason, config), None)
    if rejection is not None:
        return Decision(promote=False, reason=rejection, evidence=evidence)
    if evidence.accuracy_gain is None:
        return Decision(promote=True, reason="the first model", evidence=evidence)
    reason = f"{evidence.accuracy_gain:+.2%} on validation (p = {evidence.p_value:.2g})"
    return Decision(promote=True, reason=reason, evidence=evidence)


def _paired_comparison(
    challenger: ExportedModel, champion: ExportedModel, data: Splits, confidence: float
) -> dict[str, Any]:
    challenger_correct, champion_correct = _is_correct(challenger, data.val), _is_correct(champion, data.val)
    challenger_only = int((challenger_correct & ~champion_correct).sum())
    champion_only = int((champion_correct & ~challenger_correct).sum())
    n = len(challenger_correct)
    return {
        "champion_val_accuracy": float(champion_correct.mean()),
        "champion_test_accuracy": float(_is_correct(champion, data.test).mean()),
        "discordant_challenger": challenger_only,
        "discordant_champion": champion_only,
        "accuracy_gain": (challenger_only - champion_only) / n,
        "gain_interval": bonett_price_interval(challenger_only, champion_only, n, confidence),
        "p_value": mcnemar_exact(challenger_only, champion_only),
        "latency_ratio": _latency_ratio(challenger, champion, data.val.images[:1].numpy()),
    }


def _rejection_reasons(
    evidence: Comparison, incomparable_reason: str | None, config: CompareConfig
) -> Iterator[str]:
    """Reasons to reject the challenger, most severe first."""
    if evidence.parity_argmax_agreement < 1 or evidence.parity_max_abs_diff > config.parity_atol:
        yield (
            f"ONNX/PyTorch parity failed: {evidence.parity_argmax_agreement:.2%} of the classes agree, "
            f"probabilities differ by up to {evidence.parity_max_abs_diff:.1e}"
        )
    if incomparable_reason is not None:
        yield incomparable_reason
    if evidence.accuracy_gain is None or evidence.p_value is None or evidence.latency_ratio is None:
        return
    gain = f"{evidence.accuracy_gain:+.2%} on validation"
    if evidence.accuracy_gain <= 0 or evidence.accuracy_gain < config.min_gain:
        yield f"{gain} is {f'below the required {config.min_gain:.2%}' if config.min_gain else 'no gain'}"
    if evidence.p_value > 1 - config.confidence:
        yield (
            f"{gain} is not significant (p = {evidence.p_value:.2g}, required: at most "
            f"{1 - config.confidence:.2g})"
        )
    if evidence.latency_ratio > config.max_latency_ratio:
        yield (
            f"latency is {evidence.latency_ratio:.2f} times the champion's "
            f"(allowed: {config.max_latency_ratio:g})"
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


def _is_correct(model: ExportedModel, subset: Split) -> NDArray[np.bool_]:
    """`(N,)`, per image."""
    correct: NDArray[np.bool_] = model.predict_proba(subset.images.numpy()).argmax(1) == subset.labels.numpy()
    return correct


def _latency_ratio(challenger: ExportedModel, champion: ExportedModel, image: NDArray[np.uint8]) -> float:
    """Median over interleaved rounds, so that a change of the machine's speed affects both."""
    ratios = []
    for _ in range(9):
        seconds = []
        for model in (challenger, champion):
            model.predict_proba(image)
            start = time.perf_counter()
            for _ in range(100):
                model.predict_proba(image)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    ratio = float(np.median(ratios))
    if not math.isfinite(ratio):
        raise RunError("the latency could not be measured")
    return ratio
