"""Against SciPy's tests, by hand, and on batches that have shifted in a known way or not at all."""

import json
import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import fisher_exact, ks_2samp, kstwo  # type: ignore[attr-defined]

from tasks.drift.shift import (
    BATCHES_PER_YEAR,
    LARGE_EFFECT,
    ClassTests,
    Drift,
    detect_drift,
    find_noticeable_shifts,
    min_images,
    weight_reference,
)
from tasks.workspace.errors import RunError

CLASSES = ["cat", "dog", "ship"]
SHARES = np.full(3, 1 / 3)


def draw_labels(
    n: int, generator: np.random.Generator, shares: NDArray[np.float64] = SHARES
) -> NDArray[np.int64]:
    return generator.choice(len(CLASSES), n, p=shares)


def draw_outputs(
    labels: NDArray[np.int64], generator: np.random.Generator, noise: float = 0
) -> NDArray[np.float32]:
    """Of a model that believes more in the right class; rounded, so that there are ties. `noise`: a shift."""
    raw = 2 * np.eye(len(CLASSES))[labels] + generator.gumbel(size=(len(labels), len(CLASSES)))
    raw[:, 0] += noise
    outputs = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    return outputs.round(2).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    labels = draw_labels(900, generator)
    return draw_outputs(labels, generator), labels


def test_without_labels_it_is_the_two_sample_ks_test_per_class(
    reference: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    generator = np.random.default_rng(1)
    outputs = draw_outputs(draw_labels(120, generator), generator, noise=0.4)
    drift = detect_drift(outputs, reference[0], 0.95)
    expected = [ks_2samp(outputs[:, k], reference[0][:, k], method="asymp") for k in range(3)]
    (test,) = drift.tests
    assert test.shift == "output"
    np.testing.assert_allclose(test.effects, [result.statistic for result in expected])
    np.testing.assert_allclose(test.p_values, [result.pvalue for result in expected])
    assert (1 - 3 * drift.threshold) ** BATCHES_PER_YEAR == pytest.approx(0.95)
    assert kstwo.sf(drift.noticeable, round(120 * 900 / 1020)) == pytest.approx(drift.threshold)


def test_other_proportions_alone_are_a_label_shift_and_named(
    reference: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    generator = np.random.default_rng(2)
    labels = draw_labels(200, generator, np.array([0.7, 0.3, 0]))
    outputs = draw_outputs(labels, generator)
    drift = detect_drift(outputs, reference[0], 0.95, (labels, reference[1]))
    assert [test.shift for test in drift.shifts] == ["label"]
    assert not drift.outliers.size, "no image stands out"
    missing = drift.tests[1]
    assert missing.effects[2] == pytest.approx(-(reference[1] == 2).mean())
    counts = [(given == 2).sum() for given in (labels, reference[1])]
    table = [[counts[0], 200 - counts[0]], [counts[1], 900 - counts[1]]]
    assert missing.p_values[2] == pytest.approx(fisher_exact(table).pvalue)
    assert detect_drift(outputs, reference[0], 0.95).shifts, "without labels, the outputs have shifted"
    described = drift.describe(CLASSES)
    assert re.match(
        r"drift in 200 images: \d+ points (more|fewer) \w+ than expected \(label shift, p ", described
    )


def test_other_images_of_the_same_classes_are_a_covariate_shift(
    reference: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    generator = np.random.default_rng(3)
    labels = draw_labels(200, generator)
    outputs = np.concatenate(
        [draw_outputs(labels[:100], generator), draw_outputs(labels[100:], generator, noise=3)]
    )
    drift = detect_drift(outputs, reference[0], 0.95, (labels, reference[1]))
    assert [test.shift for test in drift.shifts] == ["covariate"]
    assert CLASSES[drift.tests[0].largest] == "cat"
    assert (drift.outliers >= 100).all(), "those that stand out are among those that have shifted"
    values = json.loads(json.dumps(drift.as_dict(CLASSES)))
    assert (values["drifted"], values["shifts"], values["tests"]["covariate"]["class"]) == (
        True,
        ["covariate"],
        "cat",
    )
    # The class is not that of the images, of which none need be a cat.
    assert values["summary"].startswith(
        "drift in 200 images: they differ from the validation images of their classes: "
        "the model's probability of cat differs most (covariate shift, KS 0."
    )


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0, 0.02, 0.98)])
def test_false_alarms_are_as_rare_as_promised(labeled: bool, shares: tuple[float, ...]) -> None:
    """Also where nearly all images are of a class of which the reference has few.

    For a test that can fail in a second, the year may have many: a batch has one with 20%.
    """
    generator = np.random.default_rng(4)
    confidence = math.exp(BATCHES_PER_YEAR * math.log(0.8))
    alarms = 0
    for _ in range(100):
        labels, reference_labels = draw_labels(60, generator, np.array(shares)), np.arange(90) % 3
        if not labeled:
            reference_labels = draw_labels(90, generator, np.array(shares))
        drift = detect_drift(
            draw_outputs(labels, generator),
            draw_outputs(reference_labels, generator),
            confidence,
            (labels, reference_labels) if labeled else None,
        )
        alarms += any(test.shift != "label" for test in drift.shifts)
    assert alarms <= 100 * 0.2 + 3 * math.sqrt(100 * 0.2 * 0.8)
    assert alarms > 0, "nor is it never"


def test_a_significant_shift_below_the_smallest_effect_is_no_drift(
    reference: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    """The effect decides for outputs, and not for labels, of which a rare class may be missing."""
    generator = np.random.default_rng(6)
    labels = draw_labels(900, generator, np.array([0.5, 0.25, 0.25]))
    outputs = draw_outputs(labels, generator, noise=0.4)
    found = detect_drift(outputs, reference[0], 0.95, (labels, reference[1]))
    assert [test.shift for test in found.shifts] == ["covariate", "label"]
    assert len(found.outliers)
    effect = float(found.tests[0].effects.max())
    for min_effect, shifts in ((effect, ["covariate", "label"]), (effect + 1e-9, ["label"])):
        drift = detect_drift(outputs, reference[0], 0.95, (labels, reference[1]), min_effect)
        assert [test.shift for test in drift.shifts] == shifts
        assert bool(len(drift.outliers)) == ("covariate" in shifts)
        assert drift.noticeable == min_effect > found.noticeable
    line = detect_drift(outputs, reference[0], 0.95, min_effect=0.5).describe(CLASSES)
    assert line.startswith("no drift in 900 images: ")
    assert line.endswith(", 0.50 would be noticed")


def test_too_few_images_are_not_tested(reference: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    drift = detect_drift(reference[0][:10], reference[0], 0.95)
    assert not drift.tests
    assert (drift.noticeable, drift.outliers.tolist()) == (1.0, []), "no effect would be noticed"
    assert drift.describe(CLASSES) == f"too few images to test for drift: 10, from {drift.min_images} on"
    sizes = [(drift.min_images - less) * 900 / (900 + drift.min_images - less) for less in (0, 1)]
    enough, few = (kstwo.isf(drift.threshold, math.floor(size)) for size in sizes)
    assert enough <= LARGE_EFFECT < few
    assert detect_drift(reference[0][: drift.min_images], reference[0], 0.95).tests


def test_min_images_beside_too_small_a_reference_raises() -> None:
    with pytest.raises(RunError, match=r"^12 validation images are too few"):
        min_images(12, 1e-5)


def test_class_without_validation_images_is_left_out_of_the_outputs_test(
    reference: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    generator = np.random.default_rng(5)
    known = reference[1] != 2
    labels = np.repeat([0, 1, 2], 40)
    outputs = draw_outputs(labels, generator)
    outputs[80:] = 0
    drift = detect_drift(outputs, reference[0][known], 0.95, (labels, reference[1][known]))
    assert [test.shift for test in drift.shifts] == ["label"]
    only = detect_drift(outputs[80:], reference[0][known], 0.95, (labels[80:], reference[1][known]))
    assert [test.shift for test in only.shifts] == ["label"]


def test_find_noticeable_shifts_are_those_of_the_test() -> None:
    reference = draw_outputs(draw_labels(900, np.random.default_rng(1)), np.random.default_rng(2))
    shifts = find_noticeable_shifts(len(reference), len(CLASSES), 0.95)
    least, *_ = shifts
    assert shifts[least] <= LARGE_EFFECT
    floored = find_noticeable_shifts(len(reference), len(CLASSES), 0.95, 0.3)
    assert list(floored.values()) == [max(0.3, shift) for shift in shifts.values()]
    for n, noticeable in shifts.items():
        outputs = draw_outputs(draw_labels(n, np.random.default_rng(3)), np.random.default_rng(4))
        found = detect_drift(outputs, reference, 0.95)
        assert found.min_images == least
        assert found.noticeable == pytest.approx(noticeable, rel=0.05)


def test_reference_has_the_proportions_of_the_batch() -> None:
    """By hand: of one image, of four images, and of none."""
    reference = np.array([0, 0, 1, 2])
    for batch, weights in (([1], [0, 0, 1, 0]), ([0, 0, 0, 2], [3 / 8, 3 / 8, 0, 1 / 4]), ([], [0] * 4)):
        np.testing.assert_allclose(weight_reference((np.array(batch, np.int64), reference)), weights)


def test_weighted_reference_is_worth_as_many_images_as_its_weights_say(
    reference: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    """The p-value of one class's images is that of the test beside this class alone."""
    generator = np.random.default_rng(7)
    labels = np.full(150, 1)
    outputs = draw_outputs(labels, generator, noise=0.3)
    same = reference[1] == 1
    test = detect_drift(outputs, reference[0], 0.95, (labels, reference[1])).tests[0]
    size = round(150 * same.sum() / (150 + same.sum()))
    for k in range(3):
        expected = ks_2samp(outputs[:, k], reference[0][same, k], method="asymp")
        assert test.effects[k] == pytest.approx(expected.statistic)
        assert test.p_values[k] == pytest.approx(kstwo.sf(expected.statistic, size))


def test_class_that_has_shifted_most_is_named_by_its_p_value_and_then_by_its_effect() -> None:
    effects, p_values = np.array([0.1, -0.3, 0.2]), np.array([0.5, 0.01, 0.01])
    assert ClassTests("label", effects, p_values).largest == 1
    test = ClassTests("output", np.array([0.1, 0.2, 0.15]), np.array([0.5, 0.1, 0.2]))
    drift = Drift(100, 50, 1e-5, 0.06, 0.2, (test,), np.empty(0, np.int64))
    assert drift.describe(CLASSES) == (
        "no drift in 100 images: the model's probability of dog differs most (KS 0.20), 0.20 would be noticed"
    )
    outputs = ClassTests("output", np.array([0.1, 0.4, 0.15]), np.array([0.5, 1e-7, 0.2]))
    labels = ClassTests("label", np.array([0.1, 0.2, -0.3]), np.array([0.5, 0.1, 1e-100]))
    drift = Drift(100, 50, 1e-5, 0.06, 0.2, (outputs, labels), np.empty(0, np.int64))
    assert drift.describe(CLASSES) == (
        "drift in 100 images: they differ from the validation images: the model's probability of dog differs "
        "most (output shift, KS 0.40, p = 1.0e-07); 30 points fewer ship than expected (label shift, "
        "p < 1e-99); required: p ≤ 1.0e-05"
    )


def test_outliers_lie_farthest_in_the_direction_of_the_shift() -> None:
    """Half of the images have moved up in the first output: the one that has moved most comes first."""
    generator = np.random.default_rng(8)
    reference = generator.random((900, 3)).astype(np.float32)
    outputs = generator.random((200, 3)).astype(np.float32)
    outputs[100:, 0] = np.linspace(0.9, 1.0, 100)
    drift = detect_drift(outputs, reference, 0.95)
    assert [test.shift for test in drift.shifts] == ["output"]
    first = outputs[drift.outliers, 0]
    assert (first > 0.9).all()
    moved = outputs - 0.5
    direction = moved.mean(0)
    expected = np.argsort(-(moved @ direction))[: len(drift.outliers)]
    assert len({*drift.outliers.tolist()} & {*expected.tolist()}) > 0.7 * len(expected)
