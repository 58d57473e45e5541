"""The figures of a comparison, by hand and on a clock that only the models move."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tasks.params import CompareConfig
from tasks.registry.evidence import compare_accuracies, measure_latency_ratio, run_tests
from tasks.registry.significance import compute_power, margin_p_value, mcnemar_exact
from tasks.workspace.splits import Split, Splits
from tests.tasks.registry.test_compare import CONFIG

NUM_IMAGES = 100


def make_splits(num_added: int) -> Splits:
    val = Split(torch.zeros(NUM_IMAGES, 1, 1, 3, dtype=torch.uint8), torch.arange(NUM_IMAGES) % 2)
    return Splits(val, val, val, {"val_added": num_added})


def measure(
    num_added: int, error: float, config: CompareConfig = CONFIG, candidates: int | None = None
) -> dict[str, Any]:
    """The challenger errs on 0 to 9, the champion on 5 to 29 and on the last three, which may be added."""
    challenger, champion = np.ones((2, NUM_IMAGES), bool)
    challenger[:10] = False
    champion[5:30] = champion[-3:] = False
    correct, data = (challenger, champion), make_splits(num_added)
    found = {"val_images": NUM_IMAGES, "candidates": candidates}
    found |= compare_accuracies(correct, data, ["a", "b"], config)
    return found | run_tests(correct, found, data, error, config)


def test_one_question_may_spend_the_whole_error() -> None:
    found = measure(0, 0.04)
    assert (found["discordant_challenger"], found["discordant_champion"]) == (23, 5)
    assert (found["threshold"], found["p_value"]) == (0.04, mcnemar_exact(23, 5))
    assert not {"p_added", "p_not_worse", "val_own"} & found.keys()


def test_questions_and_candidates_share_the_error() -> None:
    not_worse = CONFIG.model_copy(update={"rule": "not_worse"})
    found = measure(0, 0.04, not_worse)
    assert found["threshold"] == 0.04 / 2
    assert found["p_not_worse"] == margin_p_value(23, 5, NUM_IMAGES, -CONFIG.max_loss)
    assert measure(0, 0.04, not_worse, candidates=4)["threshold"] == 0.04 / 2 / 4
    found = measure(50, 0.04, not_worse)
    assert found["threshold"] == pytest.approx(0.04 / 3)
    assert (found["p_added"], found["val_added"].images) == (mcnemar_exact(3, 0), 50)
    assert found["p_own_not_worse"] == margin_p_value(20, 5, 50, -CONFIG.max_loss)


def test_added_images_are_asked_about_from_the_number_on_that_could_be_significant() -> None:
    """Three images can give p = 1/8, which the half of 0.25 allows; a third does not, nor do two images."""
    not_worse = CONFIG.model_copy(update={"rule": "not_worse"})
    assert measure(3, 0.25)["threshold"] == 0.25 / 2
    assert "p_added" not in measure(2, 0.25)
    assert "p_added" not in measure(3, 0.24)
    assert "p_added" not in measure(3, 0.25, not_worse)
    assert measure(3, 0.375, not_worse)["threshold"] == 0.375 / 3


def test_detectable_gain_is_found_in_half_and_in_nine_of_ten_cases() -> None:
    half, most = measure(0, 0.04)["detectable_gain"]
    for gain, probability in ((half, 0.5), (most, 0.9)):
        assert compute_power(gain, NUM_IMAGES, 28 / NUM_IMAGES, 0.04) == pytest.approx(probability, abs=0.03)


def test_detectable_gain_of_equal_models_counts_one_image_as_different() -> None:
    equal = np.ones(NUM_IMAGES, bool)
    found: dict[str, Any] = {"val_images": NUM_IMAGES, "candidates": None}
    found |= {"discordant_challenger": 0, "discordant_champion": 0}
    correct = equal, equal
    half, _ = run_tests(correct, found, make_splits(0), 0.6, CONFIG)["detectable_gain"]
    assert compute_power(half, NUM_IMAGES, 1 / NUM_IMAGES, 0.6) == pytest.approx(0.5, abs=0.005)


class TimedModel:
    """A model each of whose predictions takes as long as its round says, on a clock of its own."""

    clock = 0.0

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.calls = seconds, 0

    def predict_proba(self, _: NDArray[np.uint8]) -> None:
        # The untimed call of a round is a hundred times as slow.
        is_first = self.calls % 101 == 0
        TimedModel.clock += self.seconds[self.calls // 101] * (100 if is_first else 1)
        self.calls += 1


def test_latency_ratio_is_the_median_of_nine_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.registry.evidence.time.perf_counter", lambda: TimedModel.clock)
    challenger: Any = TimedModel([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0])
    champion: Any = TimedModel([2.0] * 9)
    ratio = measure_latency_ratio(challenger, champion, np.zeros((1, 1, 1, 3), np.uint8))
    assert math.isclose(ratio, 5 / 2)
    assert challenger.calls == champion.calls == 9 * 101
