"""Compare a challenger with the champion on the validation split, and decide which of them serves.

The test split takes no part in any decision; the accuracy on it is only reported.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tasks.registry.paired import PairedAccuracy, mcnemar_exact, paired_accuracy
from tasks.registry.sequential import allocate_look
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.params import CompareConfig
    from tasks.workspace.splits import Split, Splits

NUM_THREADS = 2
"""number of threads of each model: latencies can be compared only at equal numbers"""
UNEVEN_RATIO = 1.25
"""factor by which a class's share of the validation images may change before the evidence says so"""


class ExportedModel(Protocol):
    """An exported model, such as `tasks.inference.onnx_classifier.load_model` returns."""

    @property
    def classes(self) -> Sequence[str]: ...

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Comparison:
    """The evidence of a decision.

    Accuracies are shares; a gain is the challenger's accuracy minus the champion's. The data set's own
    validation images are those that came with it, before any were added from `incoming/`.
    """

    val_sha256: str
    """hash of the data set's own validation images and labels, without those that were added"""
    val_images: int
    """number of validation images, with those that were added"""
    challenger_val_accuracy: float
    challenger_test_accuracy: float
    parity_max_abs_diff: float
    """largest difference between a probability of the ONNX file and of PyTorch"""
    parity_argmax_agreement: float
    """share of the images for which both give the same class"""
    champion_val_accuracy: float | None = None
    champion_test_accuracy: float | None = None
    discordant_challenger: int | None = None
    """number of validation images that only the challenger classifies correctly"""
    discordant_champion: int | None = None
    """number of validation images that only the champion classifies correctly"""
    accuracy_gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    p_value: float | None = None
    look: int | None = None
    """number of this comparison among those of the past year (`tasks.registry.sequential`)"""
    threshold: float | None = None
    """highest p-value with which the challenger is promoted at this look"""
    error_spent: float | None = None
    """chance that any look of the past year promotes a challenger that is no better"""
    val_own: PairedAccuracy | None = None
    """accuracies on the data set's own validation images alone; None where none were added"""
    val_added: PairedAccuracy | None = None
    """accuracies on the validation images that were added"""
    uneven_classes: dict[str, tuple[float, float]] | None = None
    """shares, of the own and of all validation images, of the classes of which additions changed them much"""
    latency_ratio: float | None = None
    """time of the challenger per image, divided by that of the champion"""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Decision:
    """Whether to promote the challenger, and why."""

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
    earlier_looks: Sequence[dt.datetime] = (),
    now: dt.datetime | None = None,
) -> Decision:
    """Decide whether to promote the challenger.

    It is promoted where all of these are true; the first model ever needs only the first of them:

    - Its file agrees with PyTorch (`parity`, as in the benchmark's file).
    - Its validation accuracy is higher by at least `config.min_gain`.
    - An exact one-sided McNemar test on the discordant images passes this look's threshold, which keeps a
      year without a false promotion at `config.confidence` (`tasks.registry.sequential`).
    - Its latency is at most `config.max_latency_ratio` times the champion's.

    `champion_val_sha256` is the hash of the data set's own validation images when the champion was promoted.
    Where they are different images now, the models cannot be compared, since the champion may have been
    trained on them. On added images no model was ever trained (`tasks.dataset.additions`), so the champion is
    compared on those that came after it as well. `earlier_looks` are the times of the comparisons before
    this one, with any champion, and `now` is the time of this one.
    """
    data = load_splits(splits)
    num_own = len(data.val.labels) - int(data.metadata.get("val_added", 0))
    # `values` becomes the evidence. It begins with what is known of the challenger alone.
    values: dict[str, Any] = {
        "val_sha256": hash_own_val(data),
        "val_images": len(data.val.labels),
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
            "the data set's own validation images differ from the champion's, whose training images may be "
            "among them, so the models cannot be compared"
        )
    elif champion is not None:
        look = allocate_look(earlier_looks, now or dt.datetime.now(dt.UTC), config.confidence)
        values |= _paired_comparison(challenger, champion, data, num_own, config.confidence)
        # The threshold depends on when earlier looks were, so it is recorded beside the p-value.
        values |= {"look": look.number, "threshold": look.threshold, "error_spent": look.error_spent}
    # Without a comparison, the figures of a comparison stay None.
    evidence = Comparison(**values)
    rejection = next(_rejection_reasons(evidence, incomparable_reason, config), None)
    if rejection is not None:
        return Decision(promote=False, reason=rejection, evidence=evidence)
    if evidence.accuracy_gain is None:
        return Decision(promote=True, reason="the first model", evidence=evidence)
    reason = f"{evidence.accuracy_gain:+.2%} on validation ({_describe_test(evidence)})"
    return Decision(promote=True, reason=reason, evidence=evidence)


def hash_own_val(data: Splits) -> str:
    """Return the SHA-256 of the validation images and labels, without those that were added."""
    num_own = len(data.val.labels) - int(data.metadata.get("val_added", 0))
    images, labels = data.val.images[:num_own].numpy(), data.val.labels[:num_own].numpy()
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def _paired_comparison(
    challenger: ExportedModel, champion: ExportedModel, data: Splits, num_own: int, confidence: float
) -> dict[str, Any]:
    challenger_correct, champion_correct = _is_correct(challenger, data.val), _is_correct(champion, data.val)
    found = paired_accuracy(challenger_correct, champion_correct, confidence)
    values: dict[str, Any] = {
        "champion_val_accuracy": found.champion_accuracy,
        "champion_test_accuracy": float(_is_correct(champion, data.test).mean()),
        "discordant_challenger": found.discordant_challenger,
        "discordant_champion": found.discordant_champion,
        "accuracy_gain": found.accuracy_gain,
        "gain_interval": found.gain_interval,
        "p_value": mcnemar_exact(found.discordant_challenger, found.discordant_champion),
        "latency_ratio": _latency_ratio(challenger, champion, data.val.images[:1].numpy()),
    }
    # The gain on all images may come from added images alone, so the evidence shows both parts as well.
    if num_own < found.images:
        own, added = (
            paired_accuracy(challenger_correct[part], champion_correct[part], confidence)
            for part in (slice(num_own), slice(num_own, None))
        )
        uneven = find_uneven_classes(data.val.labels.numpy(), num_own, challenger.classes)
        values |= {"val_own": own, "val_added": added, "uneven_classes": uneven}
    return values


def find_uneven_classes(
    labels: NDArray[np.int64], num_own: int, classes: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Find the classes whose share of all labels differs much from that of the first `num_own` labels.

    Return both shares. The accuracy counts such a class for more, or for less, than it did before.
    """
    own, now = (np.bincount(part, minlength=len(classes)) / len(part) for part in (labels[:num_own], labels))
    # The ratio is compared, and not the difference, so that rare classes count as much as frequent ones.
    return {
        name: (float(before), float(after))
        for name, before, after in zip(classes, own, now, strict=True)
        if not before / UNEVEN_RATIO <= after <= before * UNEVEN_RATIO
    }


def _rejection_reasons(
    evidence: Comparison, incomparable_reason: str | None, config: CompareConfig
) -> Iterator[str]:
    """Yield the reasons to reject the challenger, the most severe first."""
    # As in the stage `export`: within the tolerance, a class can differ only where rounding decides a tie. A
    # NaN is not within it.
    if not evidence.parity_max_abs_diff <= config.parity_atol:
        yield (
            f"ONNX/PyTorch parity failed: {evidence.parity_argmax_agreement:.2%} of the classes agree, "
            f"probabilities differ by up to {evidence.parity_max_abs_diff:.1e}"
        )
    if incomparable_reason is not None:
        yield incomparable_reason
    # Without a comparison there is nothing else to check.
    if evidence.accuracy_gain is None:
        return
    assert evidence.p_value is not None
    assert evidence.threshold is not None
    assert evidence.latency_ratio is not None
    gain = f"{evidence.accuracy_gain:+.2%} on validation"
    if evidence.accuracy_gain <= 0 or evidence.accuracy_gain < config.min_gain:
        yield f"{gain} is {f'below the required {config.min_gain:.2%}' if config.min_gain else 'no gain'}"
    if evidence.p_value > evidence.threshold:
        yield f"{gain} is not significant ({_describe_test(evidence)})"
    if evidence.latency_ratio > config.max_latency_ratio:
        yield (
            f"latency is {evidence.latency_ratio:.2f} times the champion's "
            f"(allowed: {config.max_latency_ratio:g})"
        )


def _describe_test(evidence: Comparison) -> str:
    return f"p = {evidence.p_value:.2g}, required: {evidence.threshold:.2g} at look {evidence.look} of a year"


def _is_correct(model: ExportedModel, subset: Split) -> NDArray[np.bool_]:
    """Return `(N,)`: whether the model classifies each image correctly."""
    correct: NDArray[np.bool_] = model.predict_proba(subset.images.numpy()).argmax(1) == subset.labels.numpy()
    return correct


def _latency_ratio(challenger: ExportedModel, champion: ExportedModel, image: NDArray[np.uint8]) -> float:
    """Return the challenger's latency over the champion's: the median of nine interleaved rounds."""
    ratios = []
    # A change of the machine's speed affects both models of a round.
    for _ in range(9):
        seconds = []
        for model in (challenger, champion):
            model.predict_proba(image)  # The first call after a pause is slower, and is not measured.
            start = time.perf_counter()
            for _ in range(100):
                model.predict_proba(image)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    ratio = float(np.median(ratios))
    if not math.isfinite(ratio):
        raise RunError("the latency could not be measured")
    return ratio
