import re
from typing import Any

import pytest

from tasks.reporting.benchmark import find_disturbance, recommend_backends, recommend_int8


def row(
    backend: str, batch_size: int, p50: float, images_per_second: float, accuracy: float
) -> dict[str, Any]:
    return {
        "backend": backend,
        "batch_size": batch_size,
        "latency_ms": {"p50": p50},
        "images_per_second": images_per_second,
        "accuracy": accuracy,
    }


def test_recommend_backends_prefers_fast_ones_of_equal_accuracy() -> None:
    rows = [
        row("exact", 1, 1.0, 1000, 0.650),
        row("exact", 64, 8.0, 8000, 0.650),
        row("careless", 1, 0.1, 9000, 0.600),
        row("close", 1, 2.0, 500, 0.648),
        row("close", 64, 4.0, 16000, 0.648),
    ]
    best = recommend_backends(rows)
    assert best["lowest_latency"]["backend"] == "exact"
    assert (best["highest_throughput"]["backend"], best["highest_throughput"]["batch_size"]) == ("close", 64)


def backend_rows(fp32: tuple[float, float], int8: tuple[float, float], lost: float) -> list[dict[str, Any]]:
    """Of ONNX Runtime in both precisions, with these images per second in batches of 1 and of 256."""
    return [
        {
            "backend": "onnxruntime",
            "provider": "CPUExecutionProvider",
            "precision": precision,
            "batch_size": size,
            "images_per_second": speed,
            "accuracy": 0.63 - (lost if precision == "int8" else 0),
        }
        for precision, speeds in (("fp32", fp32), ("int8", int8))
        for size, speed in zip((1, 256), speeds, strict=True)
    ]


@pytest.mark.parametrize(
    ("int8", "lost", "says"),
    [
        ((200.0, 300.0), 0.001, "loses 0.10 points of accuracy and is 2.00 times .*recommended for both"),
        ((50.0, 300.0), 0.0, "loses no accuracy .*, 3.00 times for many: it is recommended only for many"),
        ((50.0, 90.0), 0.001, "0.50 times as fast .* 0.90 times for many: it is not recommended"),
        ((200.0, 300.0), 0.006, "the loss is too large to recommend it"),
    ],
)
def test_recommend_int8_only_for_batch_sizes_where_it_is_faster(
    int8: tuple[float, float], lost: float, says: str
) -> None:
    assert re.search(says, recommend_int8(backend_rows((100.0, 100.0), int8, lost)) or "")


@pytest.mark.parametrize(("percent", "recommends"), [(0, True), (49.9, True), (50, False), (82, False)])
def test_nothing_is_recommended_where_others_used_most_of_the_cpu(
    percent: float, *, recommends: bool
) -> None:
    disturbance = find_disturbance({"background_cpu_percent": percent})
    said = recommend_int8(backend_rows((100.0, 100.0), (200.0, 300.0), 0.0), disturbance) or ""
    assert bool(disturbance) != recommends
    assert ("it is recommended for both" in said) == recommends
    assert (f"other processes used {percent:.0f}% of the CPU" in said) != recommends
    assert "2.00 times as fast" in said, "the backends take turns, so the ratio holds"


def test_recommend_int8_without_int8_rows_is_none() -> None:
    assert recommend_int8(backend_rows((1.0, 1.0), (1.0, 1.0), 0.0)[:2]) is None
