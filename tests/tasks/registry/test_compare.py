import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.params import CompareConfig
from tasks.registry.compare import (
    Comparison,
    Decision,
    _rejection_reasons,
    bonett_price_interval,
    compare,
    mcnemar_exact,
)
from tasks.workspace.splits import save_tensors

CONFIG = CompareConfig(confidence=0.95, min_gain=0.0, max_latency_ratio=100.0, parity_atol=1e-5)
PARITY = {"max_abs_diff": 1e-6, "argmax_agreement": 1.0}
NUM_IMAGES = 200
LABELS = np.arange(NUM_IMAGES) % 10


class FixedModel:
    """Classifies image `i`, whose first pixel holds `i`, as `predicted[i]`."""

    def __init__(self, predicted: NDArray[np.int64], classes: str = "abcdefghij") -> None:
        self.predicted = predicted
        self.classes = list(classes)

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.eye(10, dtype=np.float32)[self.predicted[images[:, 0, 0, 0]]]


def make_model(*wrong: int) -> FixedModel:
    """A model that errs on these images."""
    predicted = LABELS.copy()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % 10
    return FixedModel(predicted)


CHAMPION = make_model(*range(10, 40))
CHALLENGER = make_model(*range(15))


def save_splits(file: Path, test_labels: NDArray[np.int64] = LABELS) -> Path:
    images = torch.zeros(NUM_IMAGES, 32, 32, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(NUM_IMAGES)
    tensors = {f"{split}_images": images.clone() for split in ("train", "val", "test")}
    labels = {"train": LABELS, "val": LABELS, "test": test_labels}
    save_tensors(file, tensors | {f"{split}_labels": torch.tensor(y) for split, y in labels.items()}, {})
    return file


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    return save_splits(tmp_path / "splits.safetensors")


def decide(splits: Path, champion: FixedModel | None, **options: Any) -> Decision:
    parity = options.pop("parity", PARITY)
    return compare(options.pop("challenger", CHALLENGER), champion, splits, parity, CONFIG, **options)


def test_compare_without_champion_promotes(splits: Path) -> None:
    decision = decide(splits, None)
    assert (decision.promote, decision.reason) == (True, "the first model")
    assert decision.evidence.accuracy_gain is None
    assert "accuracy_gain" not in decision.evidence.as_dict()


def test_compare_without_champion_and_parity_rejects(splits: Path) -> None:
    decision = decide(splits, None, parity={"max_abs_diff": 0.0, "argmax_agreement": 0.9})
    assert not decision.promote
    assert decision.reason.startswith("ONNX/PyTorch parity failed: 90.00% of the classes agree")


def test_compare_significant_gain_promotes(splits: Path) -> None:
    decision = decide(splits, CHAMPION)
    assert decision.promote, decision.reason
    assert decision.reason.startswith("+7.50% on validation (p = ")
    found = decision.evidence
    assert (found.challenger_val_accuracy, found.champion_val_accuracy) == (185 / 200, 170 / 200)
    assert (found.discordant_challenger, found.discordant_champion) == (25, 10)
    assert found.accuracy_gain == 15 / 200
    assert found.gain_interval is not None
    assert found.gain_interval[0] < found.accuracy_gain < found.gain_interval[1]
    assert found.p_value == mcnemar_exact(25, 10)
    assert found.latency_ratio is not None
    assert 0.1 < found.latency_ratio < 10


def test_compare_same_model_rejects(splits: Path) -> None:
    decision = decide(splits, CHAMPION, challenger=CHAMPION)
    assert (decision.promote, decision.evidence.accuracy_gain, decision.evidence.p_value) == (False, 0, 1)
    assert decision.reason == "+0.00% on validation is no gain"


def test_compare_worse_model_rejects(splits: Path) -> None:
    decision = decide(splits, CHALLENGER, challenger=CHAMPION)
    assert (decision.promote, decision.reason) == (False, "-7.50% on validation is no gain")


def test_compare_other_validation_split_rejects_as_incomparable(splits: Path) -> None:
    same = decide(splits, CHAMPION)
    assert decide(splits, CHAMPION, champion_val_sha256=same.evidence.val_sha256).promote
    decision = decide(splits, CHAMPION, champion_val_sha256="0" * 64)
    assert not decision.promote
    assert "the validation split differs from the champion's" in decision.reason
    assert decision.evidence.accuracy_gain is None


def test_compare_other_classes_rejects_as_incomparable(splits: Path) -> None:
    decision = decide(splits, FixedModel(LABELS, "abcdefghiz"))
    assert not decision.promote
    assert decision.reason == "its classes differ from the champion's: a, b, c, d, e, f, g, h, i, j"


def test_compare_ignores_test_accuracy(splits: Path, tmp_path: Path) -> None:
    """A challenger that is wrong on every test image is promoted for the same reason."""
    decision = decide(save_splits(tmp_path / "other", (LABELS + 2) % 10), CHAMPION)
    assert decision.promote
    assert decision.reason == decide(splits, CHAMPION).reason
    assert decision.evidence.challenger_test_accuracy < 0.3


GAIN = Comparison(
    val_sha256="",
    challenger_val_accuracy=0.7,
    challenger_test_accuracy=0.7,
    parity_max_abs_diff=1e-6,
    parity_argmax_agreement=1.0,
    accuracy_gain=0.02,
    p_value=0.04,
    latency_ratio=1.2,
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_gain": 0.03}, "+2.00% on validation is below the required 3.00%"),
        ({"confidence": 0.99}, "+2.00% on validation is not significant (p = 0.04, required: at most 0.01)"),
        ({"max_latency_ratio": 1.1}, "latency is 1.20 times the champion's (allowed: 1.1)"),
        (
            {"parity_atol": 1e-7},
            "ONNX/PyTorch parity failed: 100.00% of the classes agree, probabilities differ by up to 1.0e-06",
        ),
    ],
)
def test_rejection_reasons_name_the_condition_that_failed(changes: dict[str, float], reason: str) -> None:
    assert list(_rejection_reasons(GAIN, None, CONFIG)) == []
    assert list(_rejection_reasons(GAIN, None, CONFIG.model_copy(update=changes))) == [reason]


def test_rejection_reasons_are_ordered_by_severity() -> None:
    config = CompareConfig(confidence=0.99, min_gain=0.03, max_latency_ratio=1.0, parity_atol=1e-7)
    first_words = [reason.split()[0] for reason in _rejection_reasons(GAIN, "incomparable", config)]
    assert first_words == ["ONNX/PyTorch", "incomparable", "+2.00%", "+2.00%", "latency"]


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_exact_is_the_binomial_tail(challenger_only: int, champion_only: int) -> None:
    n = challenger_only + champion_only
    tail = sum(math.comb(n, k) for k in range(challenger_only, n + 1)) / 2**n
    assert mcnemar_exact(challenger_only, champion_only) == pytest.approx(tail)


def test_bonett_price_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    p12, p21, n, hits, trials = 0.06, 0.04, 1000, 0, 2000
    for _ in range(trials):
        challenger_only, champion_only, _ = random.multinomial(n, [p12, p21, 1 - p12 - p21])
        low, high = bonett_price_interval(int(challenger_only), int(champion_only), n, 0.95)
        hits += low <= p12 - p21 <= high
    assert 0.935 < hits / trials < 0.965
