"""Diagnose the model by its results: how well it fits, how well it is calibrated, what it confuses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_TRAIN_VAL_GAP = 0.10  # accuracy by which training may be ahead of validation
MIN_LATE_GAIN = 0.01  # gain of accuracy in the last third of the epochs that makes more epochs worthwhile
MAX_VAL_LOSS_RISE = 1.02  # multiple of the lowest validation loss above which the loss counts as rising


@dataclass(frozen=True)
class FitDiagnosis:
    """How well the network fits, in the talk's words: underfitting, sweet spot, overfitting."""

    name: str
    reason: str
    advice: str


def diagnose_fit(epochs: Sequence[Mapping[str, float]], best_epoch: int) -> FitDiagnosis:
    """Diagnose the best epoch by its gap between training and validation, later ones by validation loss."""
    best = epochs[best_epoch - 1]
    gap = best["train_accuracy"] - best["val_accuracy"]
    early_best = max(epoch["val_accuracy"] for epoch in epochs[: max(1, len(epochs) * 2 // 3)])
    late_gain = best["val_accuracy"] - early_best
    lowest_val_loss = min(epoch["val_loss"] for epoch in epochs)
    gap_text = f"Training is {100 * gap:.1f} points of accuracy ahead of validation at epoch {best_epoch}"
    if gap > MAX_TRAIN_VAL_GAP:
        return FitDiagnosis(
            "Overfitting",
            f"{gap_text}: it has memorized its training images (high variance).",
            "The talk advises: get even more data (augmentation makes some of what there is), or reduce the "
            "dimension of the features, that is a smaller network.",
        )
    if best_epoch == len(epochs) and (late_gain > MIN_LATE_GAIN or len(epochs) == 1):
        return FitDiagnosis(
            "Underfitting",
            f"The last epoch is the best one, and the last third of the epochs still gained "
            f"{100 * late_gain:.1f} points: training ended before the network learned "
            "what it can (high bias).",
            "The talk advises: adjust the learning rate and the number of epochs; if that is not enough, "
            "choose another architecture.",
        )
    rising = epochs[-1]["val_loss"] > MAX_VAL_LOSS_RISE * lowest_val_loss
    if rising and epochs[-1]["train_loss"] < best["train_loss"]:
        return FitDiagnosis(
            "Sweet spot, with overfitting after it",
            f"{gap_text}. After it the training loss keeps falling while the validation loss rises: from "
            "there on the network memorizes its training images. Those epochs were discarded.",
            "Use this model. More epochs will not help; for a better one the talk advises more data, or "
            "another architecture.",
        )
    return FitDiagnosis(
        "Sweet spot",
        f"{gap_text}, and the validation loss has not begun to rise.",
        "Use this model. For a better one the talk advises more data, or another architecture.",
    )


def bin_by_confidence(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean confidence, accuracy and number of images, each `(bins that are not empty,)`.

    The bins are those of the expected calibration error in `metrics`: they have equal width, and an image is
    in the bin of the probability of its predicted class.
    """
    confidence = probabilities.max(1).astype(np.float64)
    correct = (probabilities.argmax(1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    means = [np.bincount(index, x, bins)[filled] / count[filled] for x in (confidence, correct)]
    return means[0], means[1], count[filled]


def top_confusions(
    counts: NDArray[np.int64], classes: Sequence[str], limit: int = 3
) -> list[tuple[str, str, int]]:
    """Return the most frequent errors in `counts` `(actual, predicted)`: actual, predicted, images."""
    errors = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    order = np.argsort(-errors, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(index), len(classes)) for index in order]
    return [(classes[a], classes[p], int(errors[a, p])) for a, p in pairs if errors[a, p]]
