"""Do new images come from where the training images came? Black-box shift detection on a model's outputs.

As in Rabanser, Günnemann and Lipton, "Failing Loudly" (NeurIPS 2019): one two-sample Kolmogorov-Smirnov test
per class compares the model's probability of it on a batch with that on the validation images, which the
model was not trained on; Bonferroni's correction joins them. Among the reductions of dimension compared
there a classifier's outputs find most shifts, and any exported model has them.

Where the labels are known, the proportions of the classes may differ without a change of the images: people
collect what they lack. So a class's outputs are then compared with those of the same class (covariate shift),
and the number of images per class apart from that, by Fisher's exact test (label shift).
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
"""A batch that could not even notice this KS statistic, half of its images moved, has too few images"""
NUM_OUTLIERS = 12

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Shift = Literal["output", "covariate", "label"]
"""of the outputs, where labels are unknown; of the outputs within classes; of the classes' proportions"""


@dataclass(frozen=True)
class ClassTests:
    """One two-sample test per class."""

    shift: Shift
    effects: Floats
    """`(classes,)`: Kolmogorov-Smirnov statistics; of labels, the share in the batch less that expected"""
    p_values: Floats

    @property
    def largest(self) -> int:
        """The class that has shifted most."""
        return int(np.lexsort((-np.abs(self.effects), self.p_values))[0])


@dataclass(frozen=True)
class Drift:
    """What is known of a batch."""

    images: int
    min_images: int
    """fewer are too few to test"""
    threshold: float
    """the p-value that each test needs"""
    noticeable: float
    """the smallest KS statistic that is significant in a batch of this size"""
    tests: tuple[ClassTests, ...]
    """none where there are too few images"""
    outliers: NDArray[np.int64]
    """positions of the images that stand out, the farthest first; none unless the outputs have shifted"""

    @property
    def shifts(self) -> list[ClassTests]:
        """The tests that are significant."""
        return [test for test in self.tests if test.p_values.min() <= self.threshold]

    def describe(self, classes: Sequence[str]) -> str:
        """The result in one line."""
        if not self.tests:
            return f"too few images to tell drift: {self.images:,}, from {self.min_images:,} on"
        if not self.shifts:
            outputs = self.tests[0]
            return (
                f"no drift in {self.images:,} images: KS {outputs.effects[outputs.largest]:.2f} at most "
                f"({classes[outputs.largest]}), {self.noticeable:.2f} would be noticed"
            )
        found = "; ".join(_describe_shift(test, classes) for test in self.shifts)
        return f"drift in {self.images:,} images: {found}; required: p ≤ {self.threshold:.1e}"

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """For JSON; the largest effect of each kind of test, significant or not."""
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
    effect, p_value = test.effects[test.largest], test.p_values[test.largest]
    size = f"{100 * effect:+.0f} points" if test.shift == "label" else f"KS {effect:.2f}"
    p_text = f"p = {p_value:.1e}" if p_value > 1e-99 else "p < 1e-99"
    return f"{test.shift} shift ({classes[test.largest]}: {size}, {p_text})"


def detect_drift(
    outputs: NDArray[np.float32],
    reference: NDArray[np.float32],
    confidence: float,
    labels: tuple[Labels, Labels] | None = None,
) -> Drift:
    """Compare a batch's probabilities `(N, classes)` with those of the reference `(M, classes)`.

    Args:
        outputs: of the batch
        reference: of images that the model was not trained on
        confidence: chance of a year of daily batches without a false alarm, at least
        labels: of the batch and of the reference, if known
    """
    num_images, num_classes = outputs.shape
    num_tests = num_classes * (1 if labels is None else 2)
    threshold = -math.expm1(math.log(confidence) / BATCHES_PER_YEAR) / num_tests
    least = min_images(len(reference), threshold)
    outliers = np.empty(0, np.int64)
    if num_images < least:
        return Drift(num_images, least, threshold, 1.0, (), outliers)
    strata = labels or (np.zeros(num_images, np.int64), np.zeros(len(reference), np.int64))
    compared = np.flatnonzero(np.isin(strata[0], strata[1]))  # others have no image to be compared with
    strata = strata[0][compared], strata[1]
    weights = weight_reference(strata)
    size = max(1, round(1 / (1 / len(compared) + (weights**2).sum()))) if len(compared) else 1
    ranks, reference_ranks = _rank_outputs(outputs[compared], reference, strata)
    effects = _ks_statistics(ranks, reference_ranks, weights)
    tests = [ClassTests("covariate" if labels else "output", effects, kstwo.sf(effects, size))]
    if tests[0].p_values.min() <= threshold:
        outliers = compared[_find_outliers(ranks)]
    if labels:
        tests.append(_test_labels(*labels, num_classes))
    return Drift(num_images, least, threshold, _critical_value(threshold, size), tuple(tests), outliers)


@functools.lru_cache(1024)  # finding the critical values takes longer than all tests
def min_images(num_reference: int, threshold: float) -> int:
    """The fewest images in which `LARGE_EFFECT` is significant beside so many reference images.

    `RunError` where no number is enough, since there are too few reference images.
    """
    sizes = range(1, num_reference)  # of the one-sample test that is equivalent
    size = next((size for size in sizes if _critical_value(threshold, size) <= LARGE_EFFECT), None)
    if size is None:
        raise RunError(f"{num_reference:,} validation images are too few to tell drift")
    return math.ceil(size * num_reference / (num_reference - size))


@functools.lru_cache(1024)
def _critical_value(threshold: float, size: int) -> float:
    return float(kstwo.isf(threshold, size))


def weight_reference(strata: tuple[Labels, Labels]) -> Floats:
    """Weights `(M,)` with which the reference has the batch's proportions; their sum is 1.

    The inverse of the sum of their squares is the number of images that the reference is worth.
    """
    batch, reference = strata
    counts, reference_counts = (
        np.bincount(given, minlength=1 + max(batch.max(initial=0), reference.max())) for given in strata
    )
    return np.asarray((counts / max(len(batch), 1))[reference] / reference_counts[reference])


def _rank_outputs(
    outputs: NDArray[np.float32], reference: NDArray[np.float32], strata: tuple[Labels, Labels]
) -> tuple[Floats, Floats]:
    """The share of an image's own stratum in the reference that has a smaller output; ties count half.

    So classes can be joined: within each, ranks are uniform, whatever its outputs are. Those of the reference
    are in another order than its images, each in a row of its stratum: only their distribution matters.
    """
    ranks, reference_ranks = np.empty(outputs.shape), np.empty(reference.shape)
    for stratum in np.unique(strata[1]):
        rows, reference_rows = (np.flatnonzero(given == stratum) for given in strata)
        for k, ordered in enumerate(np.sort(reference[reference_rows].T, 1)):
            ranks[rows, k] = _mid_ranks(ordered, outputs[rows, k])
            reference_ranks[reference_rows, k] = _mid_ranks(ordered, ordered)
    return ranks, reference_ranks


def _mid_ranks(ordered: NDArray[np.float32], values: NDArray[np.float32]) -> Floats:
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (
        2 * len(ordered)
    )


def _ks_statistics(ranks: Floats, reference_ranks: Floats, weights: Floats) -> Floats:
    """`(classes,)`: the largest difference of the cumulative distributions, the reference's weighted."""
    steps = np.concatenate([np.full(len(ranks), -1 / max(len(ranks), 1)), weights])
    statistics = np.zeros(ranks.shape[1])
    for k, values in enumerate(np.concatenate([ranks, reference_ranks]).T):
        order = np.argsort(values, kind="stable")
        is_last = np.append(np.diff(values[order]) > 0, True)  # of equal values
        statistics[k] = min(np.abs(np.cumsum(steps[order])[is_last]).max(), 1.0)
    return statistics


def _test_labels(labels: Labels, reference_labels: Labels, num_classes: int) -> ClassTests:
    counts, reference_counts = (
        np.bincount(given, minlength=num_classes) for given in (labels, reference_labels)
    )
    tables = np.array(
        [[counts, len(labels) - counts], [reference_counts, len(reference_labels) - reference_counts]]
    )
    p_values = np.array([fisher_exact(tables[:, :, k]).pvalue for k in range(num_classes)])
    return ClassTests("label", counts / len(labels) - reference_counts / len(reference_labels), p_values)


def _find_outliers(ranks: Floats) -> NDArray[np.int64]:
    """Positions of the images that lie farthest in the direction in which the batch as a whole has moved.

    Ranks have the mean 1/2 unless something has shifted, so the batch's mean less 1/2 is a direction; an
    image is scored by its projection on it. Rabanser et al. train a classifier to tell the batch from the
    reference and show the images of which it is surest: this is the linear one that needs no training, and
    as ranks are bounded no single odd value turns it. The least confident images would be others: dark or
    blurred ones are often misclassified with confidence.
    """
    centered = ranks - 0.5
    return np.argsort(-(centered @ centered.mean(0)), kind="stable")[:NUM_OUTLIERS]
