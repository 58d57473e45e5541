"""Measure a challenger against a champion on the validation split: the evidence of a decision.

Margins are measured against the *reference*, the last champion that was promoted as better on all images, and
not against the champion, so that small losses of several promotions cannot add up.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from tasks.registry.significance import (
    Correct,
    PairedAccuracy,
    count_discordant,
    find_detectable_gain,
    holm,
    margin_p_value,
    mcnemar_exact,
    paired_accuracy,
)
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tasks.params import CompareConfig
    from tasks.workspace.splits import Split, Splits

NUM_THREADS = 2
"""number of threads of each model: latencies can be compared only at equal numbers"""
UNEVEN_RATIO = 1.25
"""factor by which a class's share of the validation images may change before the evidence says so"""

Grounds = Literal["better", "better_on_added", "not_worse"]


class ExportedModel(Protocol):
    """An exported model, such as `tasks.inference.onnx_classifier.load_model` returns."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

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
    """of the hypothesis that the challenger is no better on all validation images"""
    p_added: float | None = None
    """of the hypothesis that it is no better on the added images; None where they are too few to decide"""
    p_not_worse: float | None = None
    """of the hypothesis that it is worse by `max_loss` than the reference; None for the rule `better`"""
    p_own_not_worse: float | None = None
    """the same on the data set's own validation images, where `p_added` is tested"""
    p_reference: float | None = None
    """of the hypothesis that it is no better than the reference, where that is another than the champion"""
    lost_classes: dict[str, float] | None = None
    """gains of the classes that have lost more than `max_class_loss`, compared with the reference"""
    selection: dict[str, Any] | None = None
    """how the challenger was chosen by these validation images (`tasks.registry.selection`)"""
    candidates: int | None = None
    """number of models that were compared on these images to choose this one, if that is not paid yet"""
    look: int | None = None
    """number of this comparison among those of the past year (`tasks.registry.significance`)"""
    threshold: float | None = None
    """highest p-value that answers a question in the challenger's favor at this look"""
    error_spent: float | None = None
    """chance that any look of the past year promotes a challenger by chance, at most"""
    detectable_gain: tuple[float | None, float | None] | None = None
    """gains on all images that such a comparison finds in half and in nine of ten cases; None: no gain"""
    grounds: Grounds | None = None
    """why the challenger may be promoted"""
    val_own: PairedAccuracy | None = None
    """accuracies on the data set's own validation images alone; None where none were added"""
    val_added: PairedAccuracy | None = None
    """accuracies on the validation images that were added"""
    uneven_classes: dict[str, tuple[float, float]] | None = None
    """shares, of the own and of all validation images, of the classes of which additions changed them much"""
    images_by_class: dict[str, list[int]] | None = None
    """number of images of each class, in the order of the classes, under `train` and `val`"""
    latency_ratio: float | None = None
    """time of the challenger per image, divided by that of the champion"""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


def hash_own_val(data: Splits) -> str:
    """Return the SHA-256 of the validation images and labels, without those that were added."""
    num_own = _count_own_val(data)
    images, labels = data.val.images[:num_own].numpy(), data.val.labels[:num_own].numpy()
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def count_images_by_class(data: Splits, num_classes: int) -> dict[str, list[int]]:
    """Return the number of images of each class in training and in validation."""
    return {
        name: np.bincount(part.labels.numpy(), minlength=num_classes).tolist()
        for name, part in (("train", data.train), ("val", data.val))
    }


def _count_own_val(data: Splits) -> int:
    """Return the number of validation images without those that were added, which are the last ones."""
    return len(data.val.labels) - int(data.metadata.get("val_added", 0))


def compare_accuracies(
    correct: Correct, data: Splits, classes: Sequence[str], config: CompareConfig
) -> dict[str, Any]:
    """Return the evidence's figures of both models, on all images and, if some were added, on both parts."""
    num_own = _count_own_val(data)
    found = paired_accuracy(*correct, config.confidence)
    values: dict[str, Any] = {
        "champion_val_accuracy": found.champion_accuracy,
        "discordant_challenger": found.discordant_challenger,
        "discordant_champion": found.discordant_champion,
        "accuracy_gain": found.accuracy_gain,
        "gain_interval": found.gain_interval,
    }
    if num_own < found.images:
        own, added = (
            paired_accuracy(correct[0][part], correct[1][part], config.confidence)
            for part in (slice(num_own), slice(num_own, None))
        )
        uneven = find_uneven_classes(data.val.labels.numpy(), num_own, classes)
        values |= {"val_own": own, "val_added": added, "uneven_classes": uneven}
    return values


def run_tests(
    correct: Correct, found: Mapping[str, Any], data: Splits, error: float, config: CompareConfig
) -> dict[str, Any]:
    """Return the p-values of this look's questions, their common threshold, and what it can detect.

    `correct` is of challenger and reference, `found` the evidence so far, `error` what this look may spend.
    """
    n, num_own = found["val_images"], _count_own_val(data)
    discordant = found["discordant_challenger"], found["discordant_champion"]
    values: dict[str, Any] = {"p_value": mcnemar_exact(*discordant)}
    # What the look may spend is shared out among the candidates that were compared, since any of them could
    # have come here, and among the questions, of which each may promote. Their number depends on no answer.
    error /= found["candidates"] or 1
    num_questions = 1
    if config.rule == "not_worse":
        values["p_not_worse"] = margin_p_value(*count_discordant(correct), n, -config.max_loss)
        num_questions += 1
    # Added images that are too few for any result to be significant get no share.
    if num_own < n and 0.5 ** (n - num_own) <= error / (num_questions + 1):
        added = found["val_added"]
        values["p_added"] = mcnemar_exact(added.discordant_challenger, added.discordant_champion)
        own = count_discordant((correct[0][:num_own], correct[1][:num_own]))
        values["p_own_not_worse"] = margin_p_value(*own, num_own, -config.max_loss)
        num_questions += 1
    threshold = error / num_questions
    detectable = (
        find_detectable_gain(n, max(sum(discordant), 1) / n, threshold, probability)
        for probability in (0.5, 0.9)
    )
    return values | {"threshold": threshold, "detectable_gain": tuple(detectable)}


def find_lost_classes(correct: Correct, labels: NDArray[np.int64], config: CompareConfig) -> dict[int, float]:
    """Return the gains of the classes that have lost more than `max_class_loss`, compared with the reference.

    One test per class, with Holm's correction, rejects a challenger wrongly with at most `1 - confidence`.
    """
    gains, p_values = {}, {}
    for k in np.unique(labels).tolist():
        of_class = labels == k
        wins, losses = count_discordant((correct[0][of_class], correct[1][of_class]))
        n = int(of_class.sum())
        gains[k] = (wins - losses) / n
        p_values[k] = margin_p_value(losses, wins, n, config.max_class_loss)  # A loss is the other's gain.
    return {k: gains[k] for k in holm(p_values, 1 - config.confidence)}


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


def is_correct(model: ExportedModel, subset: Split) -> NDArray[np.bool_]:
    """Return `(N,)`: whether the model classifies each image correctly."""
    correct: NDArray[np.bool_] = model.predict_proba(subset.images.numpy()).argmax(1) == subset.labels.numpy()
    return correct


def measure_latency_ratio(
    challenger: ExportedModel, champion: ExportedModel, image: NDArray[np.uint8]
) -> float:
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
