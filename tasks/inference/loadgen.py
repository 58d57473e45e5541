"""Load generator: MLPerf's Server scenario, with Poisson arrivals and a bound on the 99th percentile.

Reddi et al., "MLPerf Inference Benchmark", 2020, https://arxiv.org/abs/1911.02549.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.inference.backends import Backend
from tasks.inference.batches import Images, Predictor
from tasks.inference.timing import BackendMeasurement, cool_down, select_cyclic_batch

BISECTION_STEPS = 6  # resolution: 1/64 of the interval


@dataclass
class ServerResult:
    """The bracket of the bisection, in images per second."""

    passing_qps: float
    failing_qps: float
    """at first, without a trial, the backend's Offline throughput"""
    p99_ms: float = 0.0
    threads: int = 0


def run_server_scenario(
    measurements: Sequence[BackendMeasurement],
    images: Images,
    *,
    max_batch_size: int,
    target_latency_ms: float,
    min_duration_s: float,
) -> dict[Backend, ServerResult]:
    """Bisect each backend's highest sustainable rate, the backends alternating from step to step."""
    results = {}
    for measurement in measurements:
        best = measurement.best_throughput()
        results[measurement.backend] = ServerResult(0.0, best["images_per_second"], threads=best["threads"])
        size = 1
        while size <= max_batch_size:  # some backends compile or allocate at the first batch of a new size
            measurement.predictors[best["threads"]](select_cyclic_batch(images, 0, size))
            size *= 2
    for step in range(BISECTION_STEPS):
        for measurement in measurements:
            result = results[measurement.backend]
            predict = measurement.predictors[result.threads]
            rate = (result.passing_qps + result.failing_qps) / 2
            for attempt in range(2):  # retry once: other processes may have interfered
                cool_down(predict, images[:1])
                arrivals = poisson_arrivals(rate, min_duration_s, seed=2 * step + attempt)
                latencies = simulate_server(predict, images, arrivals, max_batch_size)
                p99_ms = float(np.percentile(latencies, 99) * 1000)
                if p99_ms <= target_latency_ms:
                    result.passing_qps, result.p99_ms = rate, p99_ms
                    break
            else:
                result.failing_qps = rate
    return results


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Arrival times in seconds: a Poisson process of `rate` per second, with at least one arrival."""
    count = max(1, round(rate * seconds))
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


def simulate_server(
    predict: Predictor,
    images: Images,
    arrivals: NDArray[np.float64],
    max_batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """The latency of each arrival, in seconds: from its arrival to its answer.

    One server, in order of arrival; waiting requests are batched together.
    """
    latencies = np.empty(len(arrivals))
    wrapped_images = np.concatenate([images, images[:max_batch_size]])
    start, answered = clock(), 0
    while answered < len(arrivals):
        now = clock() - start
        waiting = int(np.searchsorted(arrivals, now, side="right")) - answered
        if waiting <= 0:
            continue  # busy-waits, as a server with a bound of milliseconds does
        size = min(waiting, max_batch_size)
        first = answered % len(images)
        predict(wrapped_images[first : first + size])
        latencies[answered : answered + size] = clock() - start - arrivals[answered : answered + size]
        answered += size
    return latencies
