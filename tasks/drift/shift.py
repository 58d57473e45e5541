"""Test whether new images are distributed like the training images, by a model's outputs.

This is black-box shift detection as in Rabanser, Günnemann and Lipton, "Failing Loudly" (NeurIPS 2019). One
two-sample Kolmogorov-Smirnov (KS) test per class compares the probabilities that the model gives this class
on a batch with those on the validation images, which the model was not trained on. Bonferroni's correction
joins the tests. Among the reductions of dimension that the paper compares, a classifier's outputs find most
shifts, and any exported model has them.

Where the labels are known, the proportions of the classes may differ without a change of the images: people
collect what they lack. So two questions are tested apart: whether images differ from the validation images of
their class (covariate shift), and whether their number per class differs (label shift, by Fisher's exact
test).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact, kstwo  # type: ignore[attr-defined]

from tasks.workspace.errors import RunError

BATCHES_PER_YEAR = 365
LARGE_EFFECT = 0.5
"""KS statistic that a batch must be large enough to notice: half of its images give other outputs"""
NUM_OUTLIERS = 12

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Shift = Literal["output", "covariate", "label"]
"""what is tested: the outputs without labels, the outputs within each class, the proportions of classes"""


@dataclass(frozen=True)
class ClassTests:
    """The results of one two-sample test per class."""

    shift: Shift
    effects: Floats
    """`(classes,)`, KS statistics; in a test of labels, the share of the batch minus the expected share"""
    p_values: Floats
    """`(classes,)`"""

    @property
    def largest(self) -> int:
        """Return the number of the class that has shifted most."""
        return int(np.lexsort((-np.abs(self.effects), self.p_values))[0])


@dataclass(frozen=True)
class Drift:
    """The result of the tests of one batch of images."""

    images: int
    min_images: int
    """smallest number of images that is tested"""
    threshold: float
    """the highest p-value at which a test is significant"""
    min_effect: float
    """the smallest KS statistic that is worth an alarm, however significant it is"""
    noticeable: float
    """the smallest KS statistic that gives an alarm in a batch of this size"""
    tests: tuple[ClassTests, ...]
    """the tests that were made; empty where there are too few images"""
    outliers: NDArray[np.int64]
    """positions of the images that differ most, in descending order; empty unless the outputs have shifted"""

    @property
    def shifts(self) -> list[ClassTests]:
        """Return the tests that are significant, those of the outputs only if their effect is large enough.

        A test of labels needs no such limit: a class that is missing altogether may be a small share of all.
        """
        return [
            test
            for test in self.tests
            if test.p_values.min() <= self.threshold
            and (test.shift == "label" or test.effects.max() >= self.min_effect)
        ]

    def describe(self, classes: Sequence[str]) -> str:
        """Describe the result in one line."""
        if not self.tests:
            return f"too few images to test for drift: {self.images:,}, from {self.min_images:,} on"
        if not self.shifts:
            outputs = self.tests[0]
            return (
                f"no drift in {self.images:,} images: the model's probability of {classes[outputs.largest]} "
                f"differs most (KS {outputs.effects[outputs.largest]:.2f}), "
                f"{self.noticeable:.2f} would be noticed"
            )
        found = "; ".join(_describe_shift(test, classes) for test in self.shifts)
        return f"drift in {self.images:,} images: {found}; required: p ≤ {self.threshold:.1e}"

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the result for JSON, with the largest effect of each kind of test, significant or not."""
        return {
            "images": self.images,
            "min_images": self.min_images,
            "drifted": bool(self.shifts),
            "shifts": [test.shift for test in self.shifts],
            "threshold": self.threshold,
            "noticeable": self.noticeable,
            "tests": {
                test.shift: {
                    "class": classes[test.largest],
                    "effect": float(test.effects[test.largest]),
                    "p_value": float(test.p_values[test.largest]),
                }
                for test in self.tests
            },
            "summary": self.describe(classes),
        }


def _describe_shift(test: ClassTests, classes: Sequence[str]) -> str:
    """Say what has shifted. A class stands for the model's probability of it, which need not be shown."""
    name, effect, p_value = classes[test.largest], test.effects[test.largest], test.p_values[test.largest]
    p_text = f"p = {p_value:.1e}" if p_value > 1e-99 else "p < 1e-99"
    if test.shift == "label":
        more = "more" if effect > 0 else "fewer"
        return f"{100 * abs(effect):.0f} points {more} {name} than expected (label shift, {p_text})"
    like = "the validation images" + (" of their classes" if test.shift == "covariate" else "")
    most = f"the model's probability of {name} differs most"
    return f"they differ from {like}: {most} ({test.shift} shift, KS {effect:.2f}, {p_text})"


def detect_drift(
    outputs: NDArray[np.float32],
    reference: NDArray[np.float32],
    confidence: float,
    labels: tuple[Labels, Labels] | None = None,
    min_effect: float = 0.0,
) -> Drift:
    """Compare a batch's probabilities `(N, classes)` with those of the reference `(M, classes)`.

    Args:
        outputs: probabilities of the batch
        reference: probabilities of images that the model was not trained on
        confidence: lowest acceptable chance of a year of daily batches without a false alarm
        labels: class numbers of the batch and of the reference, if known
        min_effect: smallest KS statistic that is worth an alarm
    """
    num_images, num_classes = outputs.shape
    num_tests = num_classes * (1 if labels is None else 2)
    # A year has no false alarm where none of 365 batches has one (hence the root), and a batch has none where
    # none of its tests has one (hence Bonferroni's division).
    threshold = -math.expm1(math.log(confidence) / BATCHES_PER_YEAR) / num_tests
    least = min_images(len(reference), threshold)
    outliers = np.empty(0, np.int64)
    if num_images < least:
        return Drift(num_images, least, threshold, min_effect, 1.0, (), outliers)
    # Images are compared within strata: the classes where labels are known, else one stratum for all.
    strata = labels or (np.zeros(num_images, np.int64), np.zeros(len(reference), np.int64))
    # Images of a class without any reference image have nothing to be compared with.
    compared = np.flatnonzero(np.isin(strata[0], strata[1]))
    strata = strata[0][compared], strata[1]
    weights = weight_reference(strata)
    # SciPy's p-values are for one sample. The two-sample statistic is distributed like that of one sample of
    # n * m / (n + m) images, and a weighted reference is worth as many images as 1 / sum(weights ** 2).
    size = max(1, round(1 / (1 / len(compared) + (weights**2).sum()))) if len(compared) else 1
    ranks, reference_ranks = _rank_outputs(outputs[compared], reference, strata)
    effects = _ks_statistics(ranks, reference_ranks, weights)
    tests = [ClassTests("covariate" if labels else "output", effects, kstwo.sf(effects, size))]
    if tests[0].p_values.min() <= threshold and effects.max() >= min_effect:
        outliers = compared[_find_outliers(ranks)]
    if labels:
        tests.append(_test_labels(*labels, num_classes))
    noticeable = max(min_effect, _critical_value(threshold, size))
    return Drift(num_images, least, threshold, min_effect, noticeable, tuple(tests), outliers)


def find_noticeable_shifts(
    num_reference: int, num_classes: int, confidence: float, min_effect: float = 0.0
) -> dict[int, float]:
    """Return the smallest KS statistic that gives an alarm by number of images, without labels.

    The numbers are the smallest that is tested, and ten times as many. `RunError` as in `min_images`.
    """
    threshold = -math.expm1(math.log(confidence) / BATCHES_PER_YEAR) / num_classes
    least = min_images(num_reference, threshold)
    sizes = {n: round(n * num_reference / (n + num_reference)) for n in (least, 10 * least)}
    return {n: max(min_effect, _critical_value(threshold, size)) for n, size in sizes.items()}


@functools.lru_cache(1024)  # Finding the critical values takes longer than all tests.
def min_images(num_reference: int, threshold: float) -> int:
    """Return the smallest number of images in which a KS statistic of `LARGE_EFFECT` is significant.

    `RunError` where no number is enough, since there are too few reference images.
    """
    # The search goes over sizes of the equivalent one-sample test, and the last line solves
    # size = n * m / (n + m) for n.
    sizes = range(1, num_reference)
    size = next((size for size in sizes if _critical_value(threshold, size) <= LARGE_EFFECT), None)
    if size is None:
        raise RunError(f"{num_reference:,} validation images are too few to test for drift")
    return math.ceil(size * num_reference / (num_reference - size))


@functools.lru_cache(1024)
def _critical_value(threshold: float, size: int) -> float:
    return float(kstwo.isf(threshold, size))


def weight_reference(strata: tuple[Labels, Labels]) -> Floats:
    """Return weights `(M,)` with which the reference has the batch's proportions of strata; their sum is 1.

    The inverse of the sum of their squares is the number of unweighted images that the reference is worth.
    """
    batch, reference = strata
    counts, reference_counts = (
        np.bincount(numbers, minlength=1 + max(batch.max(initial=0), reference.max())) for numbers in strata
    )
    return np.asarray((counts / max(len(batch), 1))[reference] / reference_counts[reference])


def _rank_outputs(
    outputs: NDArray[np.float32], reference: NDArray[np.float32], strata: tuple[Labels, Labels]
) -> tuple[Floats, Floats]:
    """Replace outputs by their ranks within the reference: `(N, classes)` and `(M, classes)`, from 0 to 1.

    A rank is the share of the reference images of the same stratum that have a smaller output; ties count
    half. Without drift ranks are uniform in each stratum, whatever its outputs are, so that strata can be
    pooled. The ranks of the reference are not in the order of its images, but in rows of the same stratum.
    """
    ranks, reference_ranks = np.empty(outputs.shape), np.empty(reference.shape)
    # Dogs are ranked among dogs only, so more dogs in a batch are no covariate shift.
    for stratum in np.unique(strata[1]):
        rows, reference_rows = (np.flatnonzero(numbers == stratum) for numbers in strata)
        # Sorting once per output lets a binary search rank every image.
        for k, ordered in enumerate(np.sort(reference[reference_rows].T, 1)):
            ranks[rows, k] = _mid_ranks(ordered, outputs[rows, k])
            # The reference is ranked in itself, so that ties and small strata affect both sides alike. Sorted
            # values serve, since only the distribution of these ranks is used.
            reference_ranks[reference_rows, k] = _mid_ranks(ordered, ordered)
    return ranks, reference_ranks


def _mid_ranks(ordered: NDArray[np.float32], values: NDArray[np.float32]) -> Floats:
    # The mean of the shares of smaller values and of smaller or equal ones counts ties half.
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (
        2 * len(ordered)
    )


def _ks_statistics(ranks: Floats, reference_ranks: Floats, weights: Floats) -> Floats:
    """Return the KS statistics `(classes,)`: the largest difference between the cumulative distributions.

    The images of the reference count by their `weights` `(M,)`.
    """
    # Along all values in ascending order, the difference rises at an image of the reference and falls at one
    # of the batch, so a cumulative sum of these steps is the difference of both distributions.
    steps = np.concatenate([np.full(len(ranks), -1 / max(len(ranks), 1)), weights])
    statistics = np.zeros(ranks.shape[1])
    for k, values in enumerate(np.concatenate([ranks, reference_ranks]).T):
        order = np.argsort(values, kind="stable")
        # The distributions are defined after all of several equal values, not between them.
        is_last = np.append(np.diff(values[order]) > 0, True)
        # Rounding may carry the sum a little above 1, the largest value of a KS statistic.
        statistics[k] = min(np.abs(np.cumsum(steps[order])[is_last]).max(), 1.0)
    return statistics


def _test_labels(labels: Labels, reference_labels: Labels, num_classes: int) -> ClassTests:
    counts, reference_counts = (
        np.bincount(numbers, minlength=num_classes) for numbers in (labels, reference_labels)
    )
    # One 2x2 table per class: images of this class and all others, in the batch and in the reference.
    tables = np.array(
        [[counts, len(labels) - counts], [reference_counts, len(reference_labels) - reference_counts]]
    )
    p_values = np.array([fisher_exact(tables[:, :, k]).pvalue for k in range(num_classes)])
    return ClassTests("label", counts / len(labels) - reference_counts / len(reference_labels), p_values)


def _find_outliers(ranks: Floats) -> NDArray[np.int64]:
    """Return the positions of the images that lie farthest in the direction in which the batch has moved.

    Ranks have the mean 1/2 unless something has shifted, so the batch's mean less 1/2 is a direction; an
    image is scored by its projection on it. Rabanser et al. train a classifier to tell the batch from the
    reference, and show the images of which it is surest. The projection is the linear classifier that needs
    no training, and since ranks are bounded, no single outlier turns the direction. The least confident
    images would not do: dark or blurred ones are often misclassified with confidence.
    """
    centered = ranks - 0.5
    return np.argsort(-(centered @ centered.mean(0)), kind="stable")[:NUM_OUTLIERS]
