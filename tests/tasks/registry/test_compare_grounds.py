"""What decides at its very limits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.registry.compare import Decision, _find_grounds, _rejection_reasons
from tests.tasks.registry.test_compare import CONFIG, GAIN, LABELS, FixedModel, decide, save_splits

ADDED = replace(GAIN, p_value=0.5, p_added=0.01, p_own_not_worse=0.04, threshold=0.02, grounds=None)


@pytest.mark.parametrize(
    ("changes", "grounds"),
    [
        ({}, "better_on_added"),
        ({"p_added": 0.02}, "better_on_added"),
        ({"p_added": 0.021}, None),
        ({"p_own_not_worse": 0.06}, None),
        ({"p_value": 0.02}, "better"),
        ({"p_value": 0.021, "p_added": None}, None),
        ({"p_value": 0.02, "accuracy_gain": 0.0, "p_added": None}, None),
        ({"p_added": None, "p_not_worse": 0.02}, "not_worse"),
        ({"p_added": None, "p_not_worse": 0.021}, None),
    ],
)
def test_grounds_need_a_p_value_of_at_most_the_threshold(
    changes: dict[str, Any], grounds: str | None
) -> None:
    assert _find_grounds(replace(ADDED, **changes), CONFIG) == grounds


def test_latency_and_parity_may_be_what_is_allowed() -> None:
    config = CONFIG.model_copy(update={"max_latency_ratio": 1.2, "parity_atol": 1e-6})
    assert not list(_rejection_reasons(GAIN, None, config))
    assert not list(_rejection_reasons(replace(GAIN, latency_ratio=0.5), None, config))
    assert not list(_rejection_reasons(replace(GAIN, parity_max_abs_diff=0.0), None, config))


@pytest.mark.parametrize("classes", ["abcdefghia", "abcdefghiz", "abcdefghi"])
def test_models_of_other_classes_cannot_be_compared(tmp_path: Path, classes: str) -> None:
    decision = decide(save_splits(tmp_path / "splits"), FixedModel(LABELS, classes))
    assert decision.reason == "its classes differ from the champion's: a, b, c, d, e, f, g, h, i, j"


@pytest.mark.parametrize(
    ("changes", "is_reference"),
    [
        ({}, True),
        ({"p_reference": 0.05}, True),
        ({"p_reference": 0.06}, False),
        ({"grounds": "not_worse"}, False),
        ({"grounds": None, "threshold": None}, True),
    ],
)
def test_margins_are_measured_against_a_model_that_is_better_than_the_reference(
    changes: dict[str, Any], is_reference: bool
) -> None:
    assert Decision(True, "", replace(GAIN, **changes)).is_reference is is_reference


def test_first_model_may_have_exactly_the_required_accuracy(tmp_path: Path) -> None:
    splits = save_splits(tmp_path / "splits")
    accuracy = 185 / 200
    assert decide(splits, None, config={"min_accuracy": accuracy}).promote
    assert not decide(splits, None, config={"min_accuracy": accuracy + 1e-6}).promote
