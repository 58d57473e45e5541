from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tasks.benchmarking.backends import Backend
from tasks.benchmarking.scenarios import BackendMeasurement, measure_interleaved, median_interval
from tasks.inference.onnx_classifier import CPU

OPTIONS: dict[str, Any] = {
    "threads": 1,
    "batch_size": 8,
    "warmup_s": 0.0,
    "round_duration_s": 0.0,
    "min_rounds": 6,
    "max_rounds": 9,
    "max_relative_error": 0.05,
}


class FakeProcess:
    """Of a backend whose calls take what is given, one value per round after the warm-up."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.backend = Backend("onnxruntime", "fp32", CPU)
        self._seconds = iter([1.0, *seconds])

    def call(self, _method: str, *_arguments: object) -> list[float]:
        return [next(self._seconds)] * 3


def measurement(*seconds: float) -> BackendMeasurement:
    process: Any = FakeProcess(seconds)
    return BackendMeasurement(process, [1], rss_mb=0.0, offline_requests=4)


def test_rounds_end_once_throughput_is_known() -> None:
    """A steady backend stops at the minimum, one of which every second round is slow goes on to the last."""
    steady, uneven = measurement(*[0.1] * 9), measurement(*[0.1, 0.2] * 5)
    measure_interleaved([steady, uneven], **OPTIONS)
    assert [len(m.latencies[1, 8]) for m in (steady, uneven)] == [6, 9]
    row = steady.summarize(1, 8)
    assert row["images_per_second"] == pytest.approx(80)
    assert row["images_per_second_interval"] == pytest.approx([80, 80])
    assert row["num_calls"] == 18
    assert uneven.summarize(1, 8)["images_per_second_interval"] == pytest.approx([40, 80])


def test_one_slow_round_is_outvoted_by_more_rounds() -> None:
    """Of six rounds the interval is the range; of nine it leaves out the slowest and the fastest."""
    disturbed = measurement(0.1, 0.5, *[0.1] * 7)
    measure_interleaved([disturbed], **OPTIONS)
    assert len(disturbed.latencies[1, 8]) == 9
    assert disturbed.summarize(1, 8)["images_per_second_interval"] == pytest.approx([80, 80])


def test_median_interval_holds_the_median_as_often_as_it_says() -> None:
    """By simulation; with fewer than six values no interval can."""
    rng = np.random.default_rng(0)
    for count in (6, 9, 12, 20):
        intervals = [median_interval(list(rng.normal(size=count))) for _ in range(2000)]
        share = np.mean([low <= 0 <= high for low, high in intervals])
        assert share > 0.95 - 0.01
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_offline_is_with_several_requests_at_once_only_where_that_is_faster() -> None:
    one = measurement(*[0.1] * 9)
    measure_interleaved([one], **OPTIONS)
    one.offline[32] = [50.0, 60.0, 70.0]
    assert one.best_offline() == {"images_per_second": pytest.approx(80), "batch_size": 8, "threads": 1}
    one.offline[256] = [90.0, 100.0, 110.0]
    assert one.best_offline() == {"images_per_second": 100.0, "batch_size": 256, "requests": 4}
