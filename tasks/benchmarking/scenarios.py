"""Measure several backends in MLPerf's scenarios SingleStream, Offline and Server, in interleaved rounds.

Reddi et al., "MLPerf Inference Benchmark", 2020, https://arxiv.org/abs/1911.02549.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import bdtrik

from tasks.benchmarking.backend_process import SUSPENDS, BackendProcess
from tasks.benchmarking.backends import ALL_BACKENDS, BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from tasks.benchmarking.backends import Backend, ModelPaths
    from tasks.params import BenchmarkConfig
    from tasks.workspace.splits import Split

# ONNX Runtime's threads spin for 40 ms while they wait for more work, and would slow the next backend.
COOLDOWN_S = 0.06
CONFIDENCE = 0.95
BISECTION_STEPS = 6  # The result of the scenario Server is exact to 1/64 of the first interval.


@dataclass
class BackendMeasurement:
    """A backend and its measurements."""

    process: BackendProcess
    threads: Sequence[int]
    rss_mb: float
    """resident memory, in 10^6 bytes, of a process that has run batches on the backend and nothing else"""
    offline_requests: int
    """number of requests that the engine runs at once in the scenario Offline; 0 without such a mode"""
    accuracy: float = 0.0
    latencies: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    """seconds per call, one list per round, by number of threads and batch size"""
    offline: dict[int, list[float]] = field(default_factory=dict)
    """images per second with `offline_requests` at once, one figure per round, by batch size"""

    @property
    def backend(self) -> Backend:
        return self.process.backend

    def summarize(self, threads: int, batch_size: int) -> dict[str, Any]:
        """Return a row of `results` in benchmark.json; its throughput is the median of all rounds."""
        rounds = self.latencies[threads, batch_size]
        throughputs = self._throughputs(threads, batch_size)
        # Percentiles are of all calls: a 99th percentile needs more calls than one round has.
        latencies_ms = np.concatenate(rounds) * 1000
        p50, p90, p99 = (float(value) for value in np.percentile(latencies_ms, [50, 90, 99]))
        return {
            "name": self.backend.name,
            "backend": self.backend.framework,
            "provider": self.backend.provider,
            "precision": self.backend.precision,
            "batch_size": batch_size,
            "threads": threads,
            "num_calls": len(latencies_ms),
            "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
            "images_per_second": float(np.median(throughputs)),
            "images_per_second_interval": list(median_interval(throughputs)),
            "accuracy": self.accuracy,
        }

    def summarize_all(self) -> list[dict[str, Any]]:
        """Return a row for each number of threads and batch size."""
        return [self.summarize(threads, batch_size) for threads, batch_size in self.latencies]

    def best_throughput(self) -> dict[str, Any]:
        """Return the row with the most images per second."""
        return max(self.summarize_all(), key=lambda row: row["images_per_second"])

    def best_offline(self) -> dict[str, Any]:
        """Return the result of the scenario Offline: the fastest row, or several requests at once."""
        best = self.best_throughput()
        result = {name: best[name] for name in ("images_per_second", "batch_size", "threads")}
        for batch_size, rates in self.offline.items():
            # Many requests at once may also be slower than the best row.
            if (rate := float(np.median(rates))) > result["images_per_second"]:
                requests = self.offline_requests
                result = {"images_per_second": rate, "batch_size": batch_size, "requests": requests}
        return result

    def summarize_scenarios(self) -> dict[str, Any]:
        """Return the results of SingleStream and Offline, at the best batch size and number of threads."""
        batch1_rows = [row for row in self.summarize_all() if row["batch_size"] == 1]
        single = min(batch1_rows, key=lambda row: row["latency_ms"]["p90"])
        return {
            "single_stream": {"p90_ms": single["latency_ms"]["p90"], "threads": single["threads"]},
            "offline": self.best_offline(),
        }

    def relative_error(self, threads: int, batch_size: int) -> float:
        """Return half the width of the median throughput's confidence interval, divided by the median."""
        throughputs = self._throughputs(threads, batch_size)
        low, high = median_interval(throughputs)
        return (high - low) / 2 / float(np.median(throughputs))

    def _throughputs(self, threads: int, batch_size: int) -> list[float]:
        # A median within a round ignores calls that another process has interrupted.
        return [batch_size / float(np.median(calls)) for calls in self.latencies[threads, batch_size]]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return an interval that contains the median with probability `CONFIDENCE`, by order statistics.

    Of too few values for that, it is the whole range.
    """
    ordered = sorted(values)
    # The number of values below the true median is binomial with p = 1/2, whatever their distribution.
    # `bdtrik` inverts that: the rank whose value is above the median with at most half of the allowed error.
    rank = 1 + int(bdtrik((1 - CONFIDENCE) / 2, len(ordered), 0.5))
    return ordered[rank - 1], ordered[-rank]


def load_backends(
    processes: ExitStack,
    backends: Sequence[Backend],
    models: ModelPaths,
    test: Split,
    config: BenchmarkConfig,
) -> tuple[dict[Backend, BackendMeasurement], dict[str, str]]:
    """Load the backends that are available, at the same time, and say why others are not measured.

    On a GPU the number of threads makes no difference, so one is measured.
    """
    assert test.location is not None
    file, offset = test.location
    images = file, offset, tuple(test.images.shape)
    started = {}
    for backend in backends:
        threads = config.threads if backend.on_cpu else config.threads[:1]
        process = BackendProcess(backend, models, threads, sorted({1, *config.batch_sizes}), images)
        started[processes.enter_context(process)] = threads
    names = [name for name in ALL_BACKENDS if name not in config.backends]
    skipped = dict.fromkeys(names, "not in benchmark.backends")
    loaded = {}
    for process, threads in started.items():
        try:
            loaded[process.backend] = BackendMeasurement(process, threads, **process.wait_until_loaded())
        except BackendUnavailableError as error:
            skipped[process.backend.name] = str(error)
    return loaded, skipped


def measure_latency_and_throughput(
    measurements: Sequence[BackendMeasurement], config: BenchmarkConfig
) -> None:
    """Measure the scenarios SingleStream and Offline for each number of threads and batch size."""
    batch_sizes = sorted({1, *config.batch_sizes})
    for threads in config.threads:
        for batch_size in batch_sizes:
            measure_interleaved(
                [measurement for measurement in measurements if threads in measurement.threads],
                threads=threads,
                batch_size=batch_size,
                warmup_s=config.warmup_s,
                round_duration_s=config.round_duration_s,
                min_rounds=config.min_rounds,
                max_rounds=config.max_rounds,
                max_relative_error=config.max_relative_error,
            )
    measure_offline(measurements, batch_sizes, config.round_duration_s, config.min_rounds)


def measure_interleaved(
    measurements: Sequence[BackendMeasurement],
    *,
    threads: int,
    batch_size: int,
    warmup_s: float,
    round_duration_s: float,
    min_rounds: int,
    max_rounds: int,
    max_relative_error: float,
) -> None:
    """Fill in `latencies` of all backends for one number of threads and one batch size.

    The backends alternate, so that a change of the machine's speed affects all. After `min_rounds` a backend
    stops as soon as its relative error is at most `max_relative_error`.
    """
    cell = threads, batch_size
    for measurement in measurements:
        measurement.latencies[cell] = []
        measurement.process.call("time_calls", *cell, warmup_s)  # This result is discarded.
    unfinished = list(measurements)
    for count in range(1, max_rounds + 1):
        for measurement in unfinished:
            cool_down(threads)
            latencies = measurement.process.call("time_calls", *cell, round_duration_s)
            measurement.latencies[cell].append(latencies)
        # A backend that is known well enough leaves, so that the time goes to those that are not.
        if count >= min_rounds:
            unfinished = [m for m in unfinished if m.relative_error(*cell) > max_relative_error]


def measure_offline(
    measurements: Sequence[BackendMeasurement], batch_sizes: Sequence[int], seconds: float, rounds: int
) -> None:
    """Fill in `offline` of the backends whose engines run several requests at once."""
    for batch_size in batch_sizes:
        for measurement in measurements:
            if measurement.offline_requests:
                measurement.process.call("time_offline", batch_size, seconds)  # This is a warm-up.
        for _ in range(rounds):
            for measurement in measurements:
                if measurement.offline_requests:
                    cool_down()
                    rate = measurement.process.call("time_offline", batch_size, seconds)
                    measurement.offline.setdefault(batch_size, []).append(rate)


def cool_down(threads: int = 0) -> None:
    """Wait until the previous backend's threads sleep, unless its process is suspended.

    With one thread there are no other threads that could spin.
    """
    if threads != 1 and not SUSPENDS:
        time.sleep(COOLDOWN_S)


@dataclass
class ServerResult:
    """The interval of the bisection and what was measured at its lower end.

    `qps` (queries per second) is MLPerf's term; a query is one image.
    """

    passing_qps: float
    failing_qps: float
    """at first, without a trial, the backend's highest throughput in `results`"""
    p99_ms: float = 0.0
    threads: int = 0

    def summarize(self, target_latency_ms: float) -> dict[str, Any]:
        """Return the scenario's result in benchmark.json."""
        return {
            "images_per_second": self.passing_qps,
            "failed_images_per_second": self.failing_qps,
            "p99_ms": self.p99_ms,
            "latency_bound_ms": target_latency_ms,
            "threads": self.threads,
        }


def run_server_scenario(
    measurements: Sequence[BackendMeasurement], config: BenchmarkConfig
) -> dict[Backend, ServerResult]:
    """Bisect each backend's highest sustainable rate, the backends alternating from step to step."""
    max_batch_size, duration_s = max(config.batch_sizes), config.server_duration_s
    results = {}
    for measurement in measurements:
        best = measurement.best_throughput()
        results[measurement.backend] = ServerResult(0.0, best["images_per_second"], threads=best["threads"])
        measurement.process.call("warm_up_server", best["threads"], max_batch_size)
    for step in range(BISECTION_STEPS):
        for measurement in measurements:
            result = results[measurement.backend]
            rate = (result.passing_qps + result.failing_qps) / 2
            for attempt in range(2):  # A failure is retried once, since other processes may have interfered.
                cool_down()
                seed = 2 * step + attempt
                p99_ms = measurement.process.call(
                    "serve", result.threads, max_batch_size, rate, duration_s, seed
                )
                if p99_ms <= config.server_target_latency_ms:
                    result.passing_qps, result.p99_ms = rate, p99_ms
                    break
            else:
                result.failing_qps = rate
    return results
