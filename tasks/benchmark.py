"""The stage `benchmark` measures the exported model's speed on each backend, and its parity with PyTorch.

The scenarios are those of MLPerf Inference (Reddi et al. 2020, https://arxiv.org/abs/1911.02549): in
SingleStream one image follows the other, in Offline all images are there at once, and in Server images arrive
at random times.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.benchmarking.backends import Backend, ModelPaths, expand_backends
from tasks.benchmarking.environment import BackgroundLoad, describe_environment
from tasks.benchmarking.scenarios import (
    load_backends,
    measure_latency_and_throughput,
    run_server_scenario,
)
from tasks.inference.onnx_classifier import CPU
from tasks.workspace.errors import RunError
from tasks.workspace.files import write_json
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.inference.onnx_classifier import Probabilities
    from tasks.params import BenchmarkConfig

PREDICT_BATCH_SIZE = 250
MAX_BACKGROUND_PERCENT = 5  # the CPU that other programs may use before the stage warns
EXPORTED, REFERENCE = Backend("onnxruntime", "fp32", CPU), Backend("pytorch", "fp32", "cpu")


def benchmark(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    int8_model: Path,
    benchmarks: Path,
    config: BenchmarkConfig,
) -> dict[str, Any]:
    """Write `benchmarks` (JSON, as docs/files.md says), measured on the test images.

    A backend that is not available is reported as skipped. `RunError` if none is.
    """
    data = load_splits(splits)
    labels = data.test.labels.numpy()
    models = ModelPaths(str(weights), str(onnx_model), str(int8_model))
    configured = expand_backends(config.backends, config.providers)
    background = BackgroundLoad()
    with ExitStack() as processes:
        # The exported model and PyTorch are compared whichever backends are measured, since a promotion
        # depends on their parity (tasks/registry/compare.py).
        backends = list(dict.fromkeys([EXPORTED, REFERENCE, *configured]))
        loaded, skipped = load_backends(processes, backends, models, data.test, config)
        predicted = {
            backend: measurement.process.call("predict", max(measurement.threads), PREDICT_BATCH_SIZE)
            for backend, measurement in loaded.items()
        }
        measurements = [loaded[backend] for backend in configured if backend in loaded]
        if not measurements:
            raise RunError(f"no benchmark backend is available: {'; '.join(skipped.values())}")
        for measurement in measurements:
            measurement.accuracy = float((predicted[measurement.backend].argmax(1) == labels).mean())
        measure_latency_and_throughput(measurements, config)
        server_results = run_server_scenario(measurements, config)

    rows = [row for measurement in measurements for row in measurement.summarize_all()]
    result = {
        "dataset": data.metadata["dataset"],
        "environment": describe_environment(config.threads)
        | {"background_cpu_percent": background.percent()},
        "parity": _compare_predictions(predicted[EXPORTED], predicted[REFERENCE]),
        "scenarios": {
            measurement.backend.name: measurement.summarize_scenarios()
            | {
                "server": server_results[measurement.backend].summarize(config.server_target_latency_ms),
                "accuracy": measurement.accuracy,
                "model_kb": measurement.backend.select_file(models).stat().st_size / 1000,
                "rss_mb": measurement.rss_mb,
            }
            for measurement in measurements
        },
        "skipped": skipped,
        "results": rows,
    }
    write_json(benchmarks, result)
    _print_summary(result)
    return {"images_per_second": max(row["images_per_second"] for row in rows)}


def _compare_predictions(exported: Probabilities, reference: Probabilities) -> dict[str, Any]:
    return {
        "images": len(exported),
        "max_abs_diff": float(np.abs(exported - reference).max()),
        "argmax_agreement": float((exported.argmax(1) == reference.argmax(1)).mean()),
    }


def _describe_server(server: Mapping[str, Any]) -> str:
    """Return the rate that the backend served in time; of one that served none, how low it was tried."""
    if server["images_per_second"]:
        return f"{server['images_per_second']:,.0f} images/s"
    return (
        f"not measured: even at {server['failed_images_per_second']:,.0f} images/s "
        f"fewer than 99 of 100 were answered within {server['latency_bound_ms']:g} ms"
    )


def _print_summary(result: dict[str, Any]) -> None:
    for name, scenario in result["scenarios"].items():
        print(
            f"{name}: single stream p90 {scenario['single_stream']['p90_ms']:.3f} ms, "
            f"offline {scenario['offline']['images_per_second']:,.0f} images/s, "
            f"server {_describe_server(scenario['server'])}"
        )
    for reason in dict.fromkeys(result["skipped"].values()):
        names = [name for name, own in result["skipped"].items() if own == reason]
        print(f"{', '.join(names)}: skipped; {reason}")
    percent = result["environment"]["background_cpu_percent"]
    if percent > MAX_BACKGROUND_PERCENT:
        print(
            f"warning: other processes used {percent:.0f}% of the CPU; "
            "ratios are reliable, absolute times are not"
        )
