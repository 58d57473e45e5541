"""Measure the throughput of several variants in interleaved rounds.

A change of the machine's speed then affects all variants.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from tasks.benchmarking.scenarios import COOLDOWN_S

Batch = NDArray[Any]
Predict = Callable[[Any], Any]


def create_session(model: bytes | str, threads: int, **settings: object) -> onnxruntime.InferenceSession:
    """Create a session with session options by name; a name with a dot is a config entry."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    for name, value in settings.items():
        if "." in name:
            options.add_session_config_entry(name, str(value))
        else:
            setattr(options, name, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def measure_interleaved(
    variants: Mapping[str, tuple[Predict, Batch]], seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Return images per second by variant, one value per round, after a round of warm-up."""
    throughputs: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, (predict, batch) in variants.items():
            time.sleep(COOLDOWN_S)
            predict(batch)
            throughput = _measure(predict, batch, seconds)
            if round_number:
                throughputs[name].append(throughput)
    return throughputs


def _measure(predict: Predict, batch: Batch, seconds: float) -> float:
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        predict(batch)
        calls += 1
    return calls * len(batch) / elapsed


def format_ratio(throughputs: list[float], reference: list[float]) -> str:
    """Format the median of the rounds' ratios with the lowest and the highest."""
    ratios = sorted(a / b for a, b in zip(throughputs, reference, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
