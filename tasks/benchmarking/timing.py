"""Latency and throughput of several backends, measured in interleaved rounds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import bdtrik

from tasks.benchmarking.backend_process import SUSPENDS, BackendProcess
from tasks.benchmarking.backends import Backend

# ONNX Runtime's threads spin for 40 ms waiting for more work, and would slow whichever backend is next.
COOLDOWN_S = 0.06
CONFIDENCE = 0.95


@dataclass
class BackendMeasurement:
    """A backend with what was measured of it."""

    process: BackendProcess
    threads: Sequence[int]
    rss_mb: float
    """of a process that has run batches on the backend, nothing else, in 10^6 bytes"""
    offline_requests: int
    """that the engine runs at once where all images are there; 0: one after the other"""
    accuracy: float = 0.0
    latencies: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    """by number of threads and batch size: seconds per call, one list per round"""
    offline: dict[int, list[float]] = field(default_factory=dict)
    """by batch size: images per second with `offline_requests` at once, one figure per round"""

    @property
    def backend(self) -> Backend:
        return self.process.backend

    def summarize(self, threads: int, batch_size: int) -> dict[str, Any]:
        """A row of `results` in benchmark.json. Throughput is the median of the rounds'."""
        rounds = self.latencies[threads, batch_size]
        throughputs = self._throughputs(threads, batch_size)
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
        return [self.summarize(threads, batch_size) for threads, batch_size in self.latencies]

    def best_throughput(self) -> dict[str, Any]:
        """The row with the most images per second."""
        return max(self.summarize_all(), key=lambda row: row["images_per_second"])

    def best_offline(self) -> dict[str, Any]:
        """The scenario Offline: by the fastest row, or with several requests at once where that is faster."""
        best = self.best_throughput()
        result = {name: best[name] for name in ("images_per_second", "batch_size", "threads")}
        for batch_size, rates in self.offline.items():
            if (rate := float(np.median(rates))) > result["images_per_second"]:
                requests = self.offline_requests
                result = {"images_per_second": rate, "batch_size": batch_size, "requests": requests}
        return result

    def relative_error(self, threads: int, batch_size: int) -> float:
        """Half the width of the median throughput's interval, over the median."""
        throughputs = self._throughputs(threads, batch_size)
        low, high = median_interval(throughputs)
        return (high - low) / 2 / float(np.median(throughputs))

    def _throughputs(self, threads: int, batch_size: int) -> list[float]:
        return [batch_size / float(np.median(calls)) for calls in self.latencies[threads, batch_size]]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Holds the median with `CONFIDENCE`, by order statistics; the range, where there are too few values."""
    ordered = sorted(values)
    rank = 1 + int(bdtrik((1 - CONFIDENCE) / 2, len(ordered), 0.5))
    return ordered[rank - 1], ordered[-rank]


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
    """Fill in `latencies`. The backends alternate, so that a change of the machine's speed affects all.

    After `min_rounds` a backend stops as soon as its throughput is known within `max_relative_error`.
    """
    cell = threads, batch_size
    for measurement in measurements:
        measurement.latencies[cell] = []
        measurement.process.call("time_calls", *cell, warmup_s)
    unfinished = list(measurements)
    for count in range(1, max_rounds + 1):
        for measurement in unfinished:
            cool_down(threads)
            latencies = measurement.process.call("time_calls", *cell, round_duration_s)
            measurement.latencies[cell].append(latencies)
        if count >= min_rounds:
            unfinished = [m for m in unfinished if m.relative_error(*cell) > max_relative_error]


def measure_offline(
    measurements: Sequence[BackendMeasurement], batch_sizes: Sequence[int], seconds: float, rounds: int
) -> None:
    """Fill in `offline`, of the engines that run several requests at once."""
    for batch_size in batch_sizes:
        for measurement in measurements:
            if measurement.offline_requests:
                measurement.process.call("time_offline", batch_size, seconds)  # warm-up
        for _ in range(rounds):
            for measurement in measurements:
                if measurement.offline_requests:
                    cool_down()
                    rate = measurement.process.call("time_offline", batch_size, seconds)
                    measurement.offline.setdefault(batch_size, []).append(rate)


def cool_down(threads: int = 0) -> None:
    """Wait until the previous backend's threads sleep, where they are not suspended.

    With one thread there are none that spin.
    """
    if threads != 1 and not SUSPENDS:
        time.sleep(COOLDOWN_S)
