"""Latency and throughput of several backends, measured in interleaved rounds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.inference.backends import Backend
from tasks.inference.batches import Images, Predictor

NUM_BATCHES = 8
# Before each measurement: ONNX Runtime's threads spin for 40 ms waiting for work, and would slow the next.
COOLDOWN_S = 0.06


@dataclass
class BackendMeasurement:
    """A backend with what was measured of it."""

    backend: Backend
    predictors: dict[int, Predictor]
    """by number of threads"""
    accuracy: float = 0.0
    latencies: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    """by number of threads and batch size: seconds per call, one list per round"""

    @property
    def max_threads(self) -> int:
        return max(self.predictors)

    def summarize(self, threads: int, batch_size: int) -> dict[str, Any]:
        """A row of `results` in benchmark.json. Throughput is the median of the rounds'."""
        rounds = self.latencies[threads, batch_size]
        throughputs = [batch_size / float(np.median(calls)) for calls in rounds]
        latencies_ms = np.concatenate(rounds) * 1000
        p50, p90, p99 = (float(value) for value in np.percentile(latencies_ms, [50, 90, 99]))
        return {
            "backend": self.backend.framework,
            "provider": self.backend.provider,
            "precision": self.backend.precision,
            "batch_size": batch_size,
            "threads": threads,
            "num_calls": len(latencies_ms),
            "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
            "images_per_second": float(np.median(throughputs)),
            "images_per_second_range": [min(throughputs), max(throughputs)],
            "accuracy": self.accuracy,
        }

    def summarize_all(self) -> list[dict[str, Any]]:
        return [self.summarize(threads, batch_size) for threads, batch_size in self.latencies]

    def best_throughput(self) -> dict[str, Any]:
        """The row with the most images per second."""
        return max(self.summarize_all(), key=lambda row: row["images_per_second"])


def measure_interleaved(
    measurements: Sequence[BackendMeasurement],
    images: Images,
    *,
    threads: int,
    batch_size: int,
    warmup_s: float,
    min_duration_s: float,
    rounds: int,
) -> None:
    """Fill in `latencies`. The backends alternate, so that a change of the machine's speed affects all."""
    batches = [select_cyclic_batch(images, i * batch_size, batch_size) for i in range(NUM_BATCHES)]
    for measurement in measurements:
        measurement.latencies[threads, batch_size] = []
        _time_calls(measurement.predictors[threads], batches, warmup_s)
    for _ in range(rounds):
        for measurement in measurements:
            predict = measurement.predictors[threads]
            cool_down(predict, batches[0])
            latencies = _time_calls(predict, batches, min_duration_s / rounds)
            measurement.latencies[threads, batch_size].append(latencies)


def cool_down(predict: Predictor, batch: Images) -> None:
    """Wait until the previous backend's threads sleep, and wake those of the next."""
    time.sleep(COOLDOWN_S)
    predict(batch)


def select_cyclic_batch(images: Images, start: int, size: int) -> Images:
    """`size` images from `start` on, continuing with the first after the last."""
    return np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])


def _time_calls(predict: Predictor, batches: Sequence[Images], seconds: float) -> list[float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while not latencies or time.perf_counter() < end:
        batch = batches[len(latencies) % len(batches)]
        start = time.perf_counter()
        predict(batch)
        latencies.append(time.perf_counter() - start)
    return latencies
