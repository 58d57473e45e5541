import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tasks.params import CompareConfig
from tasks.registry.compare import Decision, History, _find_grounds, _rejection_reasons, compare
from tasks.registry.evidence import Comparison, find_lost_classes, find_uneven_classes
from tasks.registry.significance import allocate_look, mcnemar_exact
from tasks.workspace.splits import load_splits, save_tensors

CONFIG = CompareConfig(
    rule="better",
    confidence=0.95,
    min_accuracy=0.0,
    min_gain=0.0,
    max_loss=0.02,
    max_class_loss=1.0,
    max_latency_ratio=100.0,
    parity_atol=1e-5,
)
PARITY = {"max_abs_diff": 1e-6, "argmax_agreement": 1.0}
NUM_IMAGES = 200
LABELS = np.arange(NUM_IMAGES) % 10


class FixedModel:
    """Classifies image `i`, whose first pixel holds `i`, as `predicted[i]`."""

    def __init__(self, predicted: NDArray[np.int64], classes: str = "abcdefghij") -> None:
        self.predicted = predicted
        self.classes = list(classes)
        self.metadata: dict[str, Any] = {}

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.eye(10, dtype=np.float32)[self.predicted[images[:, 0, 0, 0]]]


def make_model(*wrong: int) -> FixedModel:
    """A model that errs on these images."""
    predicted = LABELS.copy()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % 10
    return FixedModel(predicted)


CHAMPION = make_model(*range(10, 50))
CHALLENGER = make_model(*range(15))


def save_splits(
    file: Path, test_labels: NDArray[np.int64] = LABELS, metadata: dict[str, int] | None = None
) -> Path:
    images = torch.zeros(NUM_IMAGES, 32, 32, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(NUM_IMAGES)
    tensors = {f"{split}_images": images.clone() for split in ("train", "val", "test")}
    labels = {"train": LABELS, "val": LABELS, "test": test_labels}
    tensors |= {f"{split}_labels": torch.tensor(y) for split, y in labels.items()}
    save_tensors(file, tensors, metadata or {})
    return file


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    return save_splits(tmp_path / "splits.safetensors")


def decide(splits: Path, champion: FixedModel | None, **options: Any) -> Decision:
    parity = options.pop("parity", PARITY)
    now = options.pop("now", None)
    challenger, reference = options.pop("challenger", CHALLENGER), options.pop("reference", None)
    config = CONFIG.model_copy(update=options.pop("config", {}))
    history = History(**options)
    return compare(
        challenger, champion, splits, parity, config, reference=reference, history=history, now=now
    )


def test_compare_without_champion_promotes(splits: Path) -> None:
    decision = decide(splits, None)
    assert (decision.promote, decision.reason) == (True, "the first model")
    assert decision.evidence.accuracy_gain is None
    assert "accuracy_gain" not in decision.evidence.as_dict()


def test_compare_without_champion_and_parity_rejects(splits: Path) -> None:
    for difference in (2e-5, float("nan")):
        decision = decide(splits, None, parity={"max_abs_diff": difference, "argmax_agreement": 0.9})
        assert not decision.promote
        assert decision.reason.startswith("ONNX/PyTorch parity failed: 90.00% of the classes agree")


def test_compare_accepts_another_class_where_rounding_decides_a_tie(splits: Path) -> None:
    decision = decide(splits, None, parity={"max_abs_diff": 0.9e-5, "argmax_agreement": 0.9999})
    assert decision.promote, decision.reason


def test_compare_records_the_accuracies_of_each_model_on_each_split(tmp_path: Path) -> None:
    """Of 200 images, one model errs on 0 to 14, the other on 10 to 49; on test, 0 to 4 have another label."""
    test_labels = LABELS.copy()
    test_labels[:5] = (test_labels[:5] + 1) % 10  # what the challenger says there
    evidence = decide(save_splits(tmp_path / "splits", test_labels), CHAMPION).evidence
    assert evidence.challenger_val_accuracy == (200 - 15) / 200
    assert evidence.champion_val_accuracy == (200 - 40) / 200
    assert evidence.challenger_test_accuracy == (200 - 10) / 200
    assert evidence.champion_test_accuracy == (200 - 45) / 200


def test_compare_significant_gain_promotes(splits: Path) -> None:
    decision = decide(splits, CHAMPION)
    assert decision.promote, decision.reason
    assert decision.reason == "+12.50% on validation (p = 0.00012, required: 0.005 at look 1 of a year)"
    found = decision.evidence
    assert (found.challenger_val_accuracy, found.champion_val_accuracy) == (185 / 200, 160 / 200)
    assert (found.discordant_challenger, found.discordant_champion) == (35, 10)
    assert found.accuracy_gain == 25 / 200
    assert found.gain_interval is not None
    assert found.gain_interval[0] < found.accuracy_gain < found.gain_interval[1]
    assert found.p_value == mcnemar_exact(35, 10)
    assert found.latency_ratio is not None
    assert 0.1 < found.latency_ratio < 10


def test_compare_gain_that_enough_looks_make_likely_rejects(splits: Path) -> None:
    """The same evidence, once among few looks and once as one of many in one day."""
    now = NOW
    earlier = [now - dt.timedelta(hours=hours) for hours in range(1, 9)]
    assert decide(splits, CHAMPION, looks=earlier[:1], now=now).promote
    decision = decide(splits, CHAMPION, looks=earlier, now=now)
    assert not decision.promote
    expected = allocate_look(earlier, now, CONFIG.confidence)
    found = decision.evidence
    assert (found.look, found.threshold, found.error_spent) == (9, expected.error, expected.error_spent)
    assert decision.reason == (
        f"+12.50% on validation is not significant (p = 0.00012, required: {expected.error:.2g} "
        "at look 9 of a year)"
    )


def test_compare_same_model_rejects(splits: Path) -> None:
    decision = decide(splits, CHAMPION, challenger=CHAMPION)
    assert (decision.promote, decision.evidence.accuracy_gain, decision.evidence.p_value) == (False, 0, 1)
    assert decision.reason == "+0.00% on validation is no gain"


def test_compare_worse_model_rejects(splits: Path) -> None:
    decision = decide(splits, CHALLENGER, challenger=CHAMPION)
    assert (decision.promote, decision.reason) == (False, "-12.50% on validation is no gain")


def test_compare_other_validation_split_rejects_as_incomparable(splits: Path) -> None:
    same = decide(splits, CHAMPION)
    assert decide(splits, CHAMPION, champion_val_sha256=same.evidence.val_sha256).promote
    decision = decide(splits, CHAMPION, champion_val_sha256="0" * 64)
    assert not decision.promote
    assert "the data set's own validation images differ from the champion's" in decision.reason
    assert decision.evidence.accuracy_gain is None


def test_compare_on_a_grown_split_is_with_the_champion_of_before(splits: Path, tmp_path: Path) -> None:
    """The last 160 of the 200 images were added after the champion, which was promoted on the first 40."""
    before = tmp_path / "before"
    images, labels = load_splits(splits).val.images[:40], torch.tensor(LABELS[:40])
    tensors = {f"{split}_images": images.clone() for split in ("train", "val", "test")}
    save_tensors(before, tensors | {f"{s}_labels": labels.clone() for s in ("train", "val", "test")}, {})
    first = decide(before, None)
    grown = save_splits(tmp_path / "grown", metadata={"val_added": 160})
    decision = decide(grown, CHAMPION, champion_val_sha256=first.evidence.val_sha256)
    assert decision.promote, decision.reason
    found = decision.evidence
    assert found.val_sha256 == first.evidence.val_sha256
    assert (first.evidence.val_images, found.val_images) == (40, 200)
    assert found.val_own is not None
    assert found.val_added is not None
    assert (found.val_own.discordant_challenger, found.val_own.discordant_champion) == (25, 10)
    assert (found.val_added.discordant_challenger, found.val_added.discordant_champion) == (10, 0)
    assert (found.discordant_challenger, found.discordant_champion) == (35, 10)
    assert found.val_added.images == 160
    assert found.as_dict()["val_added"]["accuracy_gain"] == 10 / 160
    assert found.uneven_classes == {}


def test_compare_without_additions_has_no_parts(splits: Path) -> None:
    assert not {"val_own", "val_added", "uneven_classes"} & decide(splits, CHAMPION).evidence.as_dict().keys()


def test_uneven_classes_are_those_whose_share_changed() -> None:
    labels = np.array([0, 1, 2, 3] * 25 + [0] * 20 + [1] * 5)
    assert find_uneven_classes(labels, 100, "abcd") == {"a": (0.25, 45 / 125)}
    assert find_uneven_classes(labels[:104], 100, "abcd") == {}


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
    val_images=5000,
    challenger_val_accuracy=0.7,
    challenger_test_accuracy=0.7,
    parity_max_abs_diff=1e-6,
    parity_argmax_agreement=1.0,
    accuracy_gain=0.02,
    p_value=0.04,
    look=3,
    threshold=0.05,
    grounds="better",
    latency_ratio=1.2,
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_gain": 0.03}, "+2.00% on validation is below the required 3.00%"),
        (
            {"threshold": 0.01},
            "+2.00% on validation is not significant (p = 0.04, required: 0.01 at look 3 of a year)",
        ),
        ({"max_latency_ratio": 1.1}, "latency is 1.20 times the champion's (allowed: 1.1)"),
        (
            {"parity_atol": 1e-7},
            "ONNX/PyTorch parity failed: 100.00% of the classes agree, probabilities differ by up to 1.0e-06",
        ),
    ],
)
def test_rejection_reasons_name_the_condition_that_failed(changes: dict[str, float], reason: str) -> None:
    assert list(_rejection_reasons(GAIN, None, CONFIG)) == []
    evidence = replace(GAIN, threshold=changes.pop("threshold", 0.05))
    config = CONFIG.model_copy(update=changes)
    evidence = replace(evidence, grounds=_find_grounds(evidence, config))
    assert list(_rejection_reasons(evidence, None, config)) == [reason]


def test_rejection_reasons_are_ordered_by_severity() -> None:
    config = CONFIG.model_copy(update={"min_gain": 0.03, "max_latency_ratio": 1.0, "parity_atol": 1e-7})
    evidence = replace(GAIN, threshold=0.01, grounds=None, lost_classes={"cat": -0.1})
    first_words = [reason.split()[0] for reason in _rejection_reasons(evidence, "incomparable", config)]
    assert first_words == ["ONNX/PyTorch", "incomparable", "+2.00%", "classes", "latency"]


MANY = 5000
NOW = dt.datetime(2026, 1, 5, 3, tzinfo=dt.UTC)
MANY_LABELS = np.arange(MANY) % 10


def save_many_splits(file: Path, added: int = 0) -> Path:
    """The images' first two bytes hold their number."""
    images = torch.zeros(MANY, 8, 8, 3, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(MANY) % 250, torch.arange(MANY) // 250
    tensors = {f"{split}_images": images.clone() for split in ("train", "val", "test")}
    tensors |= {f"{split}_labels": torch.tensor(MANY_LABELS) for split in ("train", "val", "test")}
    save_tensors(file, tensors, {"val_added": added} if added else {})
    return file


class ErringModel(FixedModel):
    """A model that errs on the images in these ranges."""

    def __init__(self, *wrong: range) -> None:
        predicted = MANY_LABELS.copy()
        for numbers in wrong:
            predicted[list(numbers)] = (predicted[list(numbers)] + 1) % 10
        super().__init__(predicted)

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        number = images[:, 0, 0, 0].astype(int) + 250 * images[:, 0, 0, 1].astype(int)
        return np.eye(10, dtype=np.float32)[self.predicted[number]]


def test_selection_divides_the_error_by_its_candidates_once(splits: Path) -> None:
    challenger = make_model(*range(15))
    val_sha256 = decide(splits, CHAMPION).evidence.val_sha256
    challenger.metadata = {"selection": {"candidates": 100, "val_sha256": val_sha256}}
    first = decide(splits, CHAMPION, challenger=challenger)
    assert not first.promote
    assert first.reason.endswith("required: 5e-05 at look 1 of a year, the best of 100 candidates)")
    assert (first.evidence.candidates, first.evidence.error_spent) == (
        100,
        allocate_look([], NOW, 0.95).error,
    )
    later = decide(splits, CHAMPION, challenger=challenger, selections=[first.evidence.selection])
    assert later.promote
    assert later.evidence.candidates is None


def test_gain_on_added_images_promotes_although_it_drowns_in_the_old_ones(tmp_path: Path) -> None:
    """40% and 70% of 100 added images are right; on the others, both models err on 300 that differ."""
    splits = save_many_splits(tmp_path / "splits", added=100)
    champion = ErringModel(range(300), range(4900, 4960))
    challenger = ErringModel(range(300, 600), range(4900, 4930))
    weekly = [NOW - dt.timedelta(days=7 * week) for week in range(1, 60)]
    decision = decide(splits, champion, challenger=challenger, looks=weekly, now=NOW)
    found = decision.evidence
    assert decision.promote, decision.reason
    assert found.grounds == "better_on_added"
    assert not decision.is_reference, "margins stay measured against the champion of before"
    assert found.threshold == pytest.approx(allocate_look(weekly, NOW, 0.95).error / 2), "two questions"
    assert found.p_value is not None
    assert found.p_value > 0.05
    assert decision.reason.startswith(
        "+30.00% on 100 added images (p = 9.3e-10, required: 0.00038 at look 53"
    )
    assert decision.reason.endswith(", not worse by 2.00% on the data set's own")

    worse = ErringModel(range(300, 680), range(4900, 4930))
    rejected = decide(splits, champion, challenger=worse, looks=weekly, now=NOW)
    assert not rejected.promote
    assert "+30.00% on 100 added images is significant, but a loss of 2.00% on the data" in rejected.reason


def test_added_images_that_can_prove_nothing_get_no_share(tmp_path: Path) -> None:
    splits = save_many_splits(tmp_path / "splits", added=5)
    found = decide(splits, ErringModel(range(300)), challenger=ErringModel(range(300, 600)), now=NOW).evidence
    assert (found.p_added, found.threshold) == (None, allocate_look([], NOW, 0.95).error)


def test_rule_not_worse_measures_its_margin_against_the_reference(tmp_path: Path) -> None:
    """Each challenger is as good as the champion before it, which has lost 1.6 points to the reference."""
    splits = save_many_splits(tmp_path / "splits")
    reference, champion = ErringModel(range(200)), ErringModel(range(280))
    options: dict[str, Any] = {"challenger": ErringModel(range(280)), "now": NOW}
    assert not decide(splits, champion, **options).promote, "the rule better asks for a gain"
    rule = {"rule": "not_worse"}
    decision = decide(splits, champion, config=rule, **options)
    assert (decision.promote, decision.evidence.grounds, decision.is_reference) == (True, "not_worse", False)
    assert decision.reason.startswith("+0.00% on validation, not worse by 2.00% (p = ")
    rejected = decide(splits, champion, reference=reference, config=rule, **options)
    assert not rejected.promote
    assert "; a loss of 2.00% is not excluded (p = " in rejected.reason


def test_challenger_better_than_the_champion_only_does_not_become_the_reference(tmp_path: Path) -> None:
    splits = save_many_splits(tmp_path / "splits")
    reference, champion = ErringModel(range(200)), ErringModel(range(280))
    decision = decide(splits, champion, challenger=ErringModel(range(190)), reference=reference, now=NOW)
    assert (decision.evidence.grounds, decision.promote, decision.is_reference) == ("better", True, True)
    decision = decide(splits, champion, challenger=ErringModel(range(200)), reference=reference, now=NOW)
    assert (decision.evidence.grounds, decision.promote, decision.is_reference) == ("better", True, False)


def test_class_that_loses_too_much_rejects_a_better_average(tmp_path: Path) -> None:
    splits = save_many_splits(tmp_path / "splits")
    champion = ErringModel(range(0, 5000, 10), range(1, 2000, 10))
    challenger = ErringModel(range(2, 1200, 10))
    config = {"max_class_loss": 0.05}
    decision = decide(splits, champion, challenger=challenger, config=config, now=NOW)
    assert decision.evidence.grounds == "better"
    assert decision.reason == "classes have lost too much: c -24.00% (allowed: -5.00%)"
    assert decide(splits, champion, challenger=challenger, config={"max_class_loss": 1.0}, now=NOW).promote


def test_class_loss_by_chance_rejects_rarely_and_a_large_one_mostly() -> None:
    """Simulated: ten classes of 500 images, on 25% of which two equal models differ."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 500)
    config = CONFIG.model_copy(update={"max_class_loss": 0.05})
    found = {}
    for loss in (0.0, 0.05, 0.15):
        chance = np.where(labels == 3, loss, 0)[None]
        draws = generator.random((200, 5000))
        wins, losses = draws < 0.125 - chance / 2, draws > 0.875 - chance / 2
        rounds = zip(wins, losses, strict=True)
        found[loss] = np.mean([3 in find_lost_classes(both, labels, config) for both in rounds])
    assert found[0.0] == 0
    assert found[0.05] < 0.03
    assert found[0.15] > 0.9


@pytest.mark.parametrize(
    ("wrong", "min_accuracy", "reason"),
    [
        (175, 0.0, "12.50% on validation is not significantly better than guessing"),
        (165, 0.0, "the first model"),
        (165, 0.5, "17.50% on validation is below the required 50.00%"),
        (175, 0.1, "the first model"),
    ],
)
def test_first_model_has_a_floor(splits: Path, wrong: int, min_accuracy: float, reason: str) -> None:
    challenger = make_model(*range(wrong))
    decision = decide(splits, None, challenger=challenger, config={"min_accuracy": min_accuracy})
    assert decision.promote == (reason == "the first model")
    assert decision.reason.startswith(reason)
