"""Interpret the benchmark's results: recommend a backend, judge whether int8 pays off, and plot charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reporting.charts import ThroughputSeries, plot_latency, plot_throughput

Row = Mapping[str, Any]
"""a row of `results` in `benchmark.json`"""

BACKEND_NAMES = {
    "onnxruntime": "ONNX Runtime",
    "pytorch": "PyTorch",
    "torchscript": "TorchScript",
    "openvino": "OpenVINO",
}
DEVICE_NAMES = {
    "CUDAExecutionProvider": " on CUDA",
    "TensorrtExecutionProvider": " on TensorRT",
    "cuda": " on CUDA",
}
COLOR_GROUPS = {"torchscript": "pytorch"}
"""backends that are shown in the color of another"""
MAX_ACCURACY_DROP = 0.005
"""loss of accuracy that is accepted for the sake of speed"""
BUSY_PERCENT = 50
"""share of the CPU that other processes used, from which on nothing is recommended"""


def format_backend(row: Row) -> str:
    """Return the name of a row's backend as the report shows it."""
    name = BACKEND_NAMES.get(row["backend"], row["backend"])
    return f"{name} {row['precision']}{DEVICE_NAMES.get(row['provider'], '')}"


def recommend_backends(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the row with the `lowest_latency` for one image and the row with the `highest_throughput`.

    Only rows whose accuracy is at most half a percentage point below the best are considered.
    """
    floor = max(row["accuracy"] for row in rows) - MAX_ACCURACY_DROP
    acceptable = [row for row in rows if row["accuracy"] >= floor]
    smallest = min(row["batch_size"] for row in acceptable)
    return {
        "lowest_latency": min(
            (row for row in acceptable if row["batch_size"] == smallest),
            key=lambda row: row["latency_ms"]["p50"],
        ),
        "highest_throughput": max(acceptable, key=lambda row: row["images_per_second"]),
    }


def find_disturbance(environment: Mapping[str, Any]) -> str:
    """Say why the times allow no recommendation; empty if they do."""
    percent = environment["background_cpu_percent"]
    if percent < BUSY_PERCENT:
        return ""
    return f"no recommendation, since other processes used {percent:.0f}% of the CPU meanwhile"


def recommend_int8(rows: Sequence[Row], disturbance: str = "") -> str | None:
    """Say in a sentence whether int8 pays off on ONNX Runtime; None where it was not measured."""
    throughput: dict[tuple[str, bool], float] = {}
    accuracy: dict[str, float] = {}
    smallest = min(row["batch_size"] for row in rows)
    for row in rows:
        if (row["backend"], row["provider"]) == ("onnxruntime", "CPUExecutionProvider"):
            key = row["precision"], row["batch_size"] == smallest
            throughput[key] = max(throughput.get(key, 0.0), row["images_per_second"])
            accuracy[row["precision"]] = row["accuracy"]
    if accuracy.keys() < {"fp32", "int8"} or len(throughput) < 4:
        return None
    single, batched = (throughput["int8", one] / throughput["fp32", one] for one in (True, False))
    drop = accuracy["fp32"] - accuracy["int8"]
    cost = f"loses {100 * drop:.2f} points of accuracy" if drop > 0 else "loses no accuracy"
    speed = (
        f"On ONNX Runtime int8 {cost} and is {single:.2f} times as fast as fp32 for one image, "
        f"{batched:.2f} times for many"
    )
    if disturbance:
        return f"{speed}: {disturbance}."
    if drop > MAX_ACCURACY_DROP:
        return f"{speed}: the loss is too large to recommend it."
    if max(single, batched) <= 1:
        return f"{speed}: it is not recommended."
    if min(single, batched) > 1:
        return f"{speed}: it is recommended for both."
    return f"{speed}: it is recommended only for {'one image' if single > 1 else 'many'}."


def group_by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the names of skipped backends by the reason why they were skipped."""
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def plot_benchmark(rows: Sequence[Row]) -> dict[str, str]:
    """Plot each backend and batch size at its best number of threads; return the charts by file name."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = format_backend(row), row["batch_size"]
        if key not in best or row["images_per_second"] > best[key]["images_per_second"]:
            best[key] = row
    smallest = min(row["batch_size"] for row in rows)
    single = [row for (_, size), row in best.items() if size == smallest]
    percentiles = ([row["latency_ms"][p] for row in single] for p in ("p50", "p90", "p99"))
    return {
        "throughput.svg": plot_throughput(_group_by_color(list(best.values()))),
        "latency.svg": plot_latency([format_backend(row) for row in single], *percentiles),
    }


def _group_by_color(rows: Sequence[Row]) -> list[list[ThroughputSeries]]:
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(format_backend(row), []).append(row)
    groups: dict[tuple[str, str], list[ThroughputSeries]] = {}
    for label, own in by_label.items():
        low, high = ([row["images_per_second_interval"][end] for row in own] for end in (0, 1))
        series = ThroughputSeries(
            label, [row["batch_size"] for row in own], [row["images_per_second"] for row in own], low, high
        )
        color = str(COLOR_GROUPS.get(own[0]["backend"], own[0]["backend"])), str(own[0]["provider"])
        groups.setdefault(color, []).append(series)
    return list(groups.values())
