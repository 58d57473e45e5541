"""Measure MLPerf's scenario Server: the highest rate at which 99 of 100 requests are served in time.

Reddi et al., "MLPerf Inference Benchmark", 2020, https://arxiv.org/abs/1911.02549.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.benchmarking.backends import Backend
from tasks.benchmarking.timing import BackendMeasurement, cool_down

BISECTION_STEPS = 6  # The result is exact to 1/64 of the first interval.


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


def run_server_scenario(
    measurements: Sequence[BackendMeasurement],
    *,
    max_batch_size: int,
    target_latency_ms: float,
    duration_s: float,
) -> dict[Backend, ServerResult]:
    """Bisect each backend's highest sustainable rate, the backends alternating from step to step."""
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
                if p99_ms <= target_latency_ms:
                    result.passing_qps, result.p99_ms = rate, p99_ms
                    break
            else:
                result.failing_qps = rate
    return results
