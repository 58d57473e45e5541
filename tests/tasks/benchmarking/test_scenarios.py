import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.benchmarking.backends import Backend, BackendUnavailableError, ModelPaths
from tasks.benchmarking.scenarios import (
    BackendMeasurement,
    load_backends,
    measure_interleaved,
    measure_latency_and_throughput,
    median_interval,
    run_server_scenario,
)
from tasks.inference.onnx_classifier import CPU
from tasks.params import BenchmarkConfig, read_params
from tasks.workspace.splits import Split
from tests.shipped_params import PARAMS_FILE

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


@pytest.mark.parametrize(
    ("count", "rank"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8)]
)
def test_median_interval_has_the_ranks_of_printed_tables(count: int, rank: int) -> None:
    """Of the sign test at 95%; the probability of each is a sum of binomial coefficients."""
    assert median_interval([float(i) for i in range(count, 0, -1)]) == (rank, count + 1 - rank)
    outside = 2 * sum(math.comb(count, k) for k in range(rank)) / 2**count
    narrower = 2 * sum(math.comb(count, k) for k in range(rank + 1)) / 2**count
    assert narrower > 0.05
    assert outside <= 0.05 or count < 6


def test_row_has_the_percentiles_of_all_calls_and_half_the_interval_as_error() -> None:
    """Calls of 1 to 100 ms, whose percentiles are those of NumPy's definition, in three rounds."""
    one = measurement()
    calls = [i / 1000 for i in range(1, 101)]
    one.latencies[1, 8] = [calls[:50], calls[50:90], calls[90:]]
    one.accuracy = 0.7
    row = one.summarize(1, 8)
    assert row["latency_ms"] == pytest.approx({"p50": 50.5, "p90": 90.1, "p99": 99.01})
    assert (row["num_calls"], row["accuracy"], row["name"]) == (100, 0.7, "onnxruntime-fp32")
    rates = [8 / 0.0255, 8 / 0.0705, 8 / 0.0955]
    assert row["images_per_second"] == pytest.approx(rates[1])
    assert one.relative_error(1, 8) == pytest.approx((rates[0] - rates[2]) / 2 / rates[1])


def test_single_stream_is_of_single_images_at_the_best_number_of_threads() -> None:
    one = measurement()
    one.latencies = {(1, 1): [[0.004]], (2, 1): [[0.003]], (1, 8): [[0.002]], (2, 8): [[0.001]]}
    assert one.summarize_scenarios() == {
        "single_stream": {"p90_ms": pytest.approx(3), "threads": 2},
        "offline": {"images_per_second": pytest.approx(8000), "batch_size": 8, "threads": 2},
    }


class CountingProcess:
    """A backend that keeps its calls, and meets the latency bound up to a rate."""

    def __init__(self, highest_rate: float = 0.0) -> None:
        self.backend = Backend("onnxruntime", "fp32", CPU)
        self.calls: list[tuple[Any, ...]] = []
        self._highest_rate = highest_rate

    def call(self, method: str, *arguments: Any) -> Any:
        self.calls.append((method, *arguments))
        if method == "serve":
            return 4.0 if arguments[2] <= self._highest_rate else 6.0
        return 100.0 if method == "time_offline" else [0.01]

    def count(self, *start: Any) -> int:
        return len([call for call in self.calls if call[: len(start)] == start])


def build_config(**changes: Any) -> BenchmarkConfig:
    short = {"batch_sizes": [8, 32], "min_rounds": 6, "max_rounds": 6, "round_duration_s": 0.0}
    return read_params(PARAMS_FILE).benchmark.model_copy(update=short | changes)


def build_measurement(process: Any, offline_requests: int) -> BackendMeasurement:
    return BackendMeasurement(process, [1, 2], rss_mb=0.0, offline_requests=offline_requests)


def test_each_number_of_threads_and_batch_size_is_measured_and_offline_where_there_is_such_a_mode() -> None:
    one, other = CountingProcess(), CountingProcess()
    both = [build_measurement(one, 0), build_measurement(other, 4)]
    measure_latency_and_throughput(both, build_config())
    cells = [(threads, size) for threads in (1, 2) for size in (1, 8, 32)]
    for measured in both:
        assert list(measured.latencies) == cells
        assert all(len(rounds) == 6 for rounds in measured.latencies.values())
    assert (one.count("time_offline"), both[0].offline) == (0, {})
    assert both[1].offline == {size: [100.0] * 6 for size in (1, 8, 32)}
    assert [other.count("time_offline", size) for size in (1, 8, 32)] == [7] * 3, "and once to warm up"


def test_server_scenario_bisects_the_highest_rate_with_other_arrivals_in_each_trial() -> None:
    process = CountingProcess(highest_rate=1000.0)
    one = build_measurement(process, 0)
    one.latencies = {(1, 1): [[0.001]], (2, 32): [[0.02]]}  # at best 1,600 images per second
    (result,) = run_server_scenario([one], build_config(server_target_latency_ms=5.0)).values()
    assert (result.passing_qps, result.failing_qps) == (1000.0, 1025.0)
    assert result.summarize(5.0) == {
        "images_per_second": 1000.0,
        "failed_images_per_second": 1025.0,
        "p99_ms": 4.0,
        "latency_bound_ms": 5.0,
        "threads": 2,
    }
    assert process.count("warm_up_server", 2, 32) == 1
    trials = [call for call in process.calls if call[0] == "serve"]
    assert len({seed for *_, seed in trials}) == len(trials)
    failed = [call for call in trials if call[3] > 1000]
    assert len(failed) == 2 * len({call[3] for call in failed}), "a failure is tried twice"
    assert {call[1:3] for call in trials} == {(2, 32)}


def test_backends_that_are_not_available_are_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[Backend, Sequence[int], Sequence[int]]] = []

    class Process(contextlib.nullcontext[None]):
        def __init__(self, backend: Backend, _: ModelPaths, threads: Any, sizes: Any, *_images: Any) -> None:
            super().__init__()
            self.backend = backend
            started.append((backend, threads, sizes))

        def __enter__(self) -> Any:
            return self

        def wait_until_loaded(self) -> dict[str, float]:
            if self.backend.precision == "int8":
                raise BackendUnavailableError("it is not installed")
            return {"rss_mb": 60.0, "offline_requests": 2}

    monkeypatch.setattr("tasks.benchmarking.scenarios.BackendProcess", Process)
    fp32, int8, cuda = (
        Backend("onnxruntime", *rest)
        for rest in (("fp32", CPU), ("int8", CPU), ("fp32", "CUDAExecutionProvider"))
    )
    test = Split(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2).long(), (tmp_path, 0))
    config = build_config(threads=[1, 2], backends=["onnxruntime-fp32", "onnxruntime-int8"])
    with contextlib.ExitStack() as stack:
        loaded, skipped = load_backends(stack, [fp32, int8, cuda], ModelPaths("a", "b", "c"), test, config)
    assert started == [(fp32, [1, 2], [1, 8, 32]), (int8, [1, 2], [1, 8, 32]), (cuda, [1], [1, 8, 32])]
    assert list(loaded) == [fp32, cuda]
    assert (loaded[fp32].rss_mb, loaded[fp32].offline_requests, loaded[fp32].threads) == (60.0, 2, [1, 2])
    assert skipped.pop(int8.name) == "it is not installed"
    assert "pytorch-fp32" in skipped
    assert set(skipped.values()) == {"not in benchmark.backends"}


def test_offline_is_with_several_requests_at_once_only_where_that_is_faster() -> None:
    one = measurement(*[0.1] * 9)
    measure_interleaved([one], **OPTIONS)
    one.offline[32] = [50.0, 60.0, 70.0]
    assert one.best_offline() == {"images_per_second": pytest.approx(80), "batch_size": 8, "threads": 1}
    one.offline[64] = [one.best_throughput()["images_per_second"]]
    assert one.best_offline()["batch_size"] == 8
    one.offline[256] = [90.0, 100.0, 110.0]
    assert one.best_offline() == {"images_per_second": 100.0, "batch_size": 256, "requests": 4}
