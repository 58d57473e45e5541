"""The stage `benchmark` measures the exported model's speed on each backend, and its parity with PyTorch.

The scenarios are those of MLPerf Inference (Reddi et al. 2020, https://arxiv.org/abs/1911.02549): in
SingleStream one image follows the other, in Offline all images are there at once, and in Server images arrive
at random times.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.benchmarking.backend_process import BackendProcess
from tasks.benchmarking.backends import (
    ALL_BACKENDS,
    Backend,
    BackendUnavailableError,
    ModelPaths,
    expand_backends,
)
from tasks.benchmarking.environment import BackgroundLoad, describe_environment
from tasks.benchmarking.server_scenario import run_server_scenario
from tasks.benchmarking.timing import BackendMeasurement, measure_interleaved, measure_offline
from tasks.inference.onnx_classifier import CPU
from tasks.workspace.errors import RunError
from tasks.workspace.files import write_json
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.benchmarking.server_scenario import ServerResult
    from tasks.inference.batches import Probabilities
    from tasks.params import BenchmarkConfig
    from tasks.workspace.splits import Split

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
    background = BackgroundLoad()
    with ExitStack() as processes:
        loaded, skipped = _load_backends(processes, models, data.test, config)
        # The exported model and PyTorch are compared whichever backends are measured, since a promotion
        # depends on their parity (tasks/registry/compare.py).
        predicted = {
            backend: measurement.process.call("predict", max(measurement.threads), PREDICT_BATCH_SIZE)
            for backend, measurement in loaded.items()
        }
        exported, reference = predicted[EXPORTED], predicted[REFERENCE]
        measurements = [loaded[backend] for backend in _configured_backends(config) if backend in loaded]
        if not measurements:
            raise RunError(f"no benchmark backend is available: {'; '.join(skipped.values())}")
        for measurement in measurements:
            measurement.accuracy = float((predicted[measurement.backend].argmax(1) == labels).mean())
        _measure_all(measurements, config)
        server_results = run_server_scenario(
            measurements,
            max_batch_size=max(config.batch_sizes),
            target_latency_ms=config.server_target_latency_ms,
            duration_s=config.server_duration_s,
        )

    rows = [row for measurement in measurements for row in measurement.summarize_all()]
    result = {
        "dataset": data.metadata["dataset"],
        "environment": describe_environment(config.threads)
        | {"background_cpu_percent": background.percent()},
        "parity": _compare_predictions(exported, reference),
        "scenarios": {
            measurement.backend.name: _scenario_results(
                measurement, server_results[measurement.backend], models, config
            )
            for measurement in measurements
        },
        "skipped": skipped,
        "results": rows,
    }
    write_json(benchmarks, result)
    _print_summary(result)
    return {"images_per_second": max(row["images_per_second"] for row in rows)}


def _configured_backends(config: BenchmarkConfig) -> list[Backend]:
    return expand_backends(config.backends, config.providers)


def _load_backends(
    processes: ExitStack, models: ModelPaths, test: Split, config: BenchmarkConfig
) -> tuple[dict[Backend, BackendMeasurement], dict[str, str]]:
    """Load the backends that are available, at the same time, and say why others are not measured.

    On a GPU the number of threads makes no difference, so one is measured.
    """
    assert test.location is not None
    file, offset = test.location
    images = file, offset, tuple(test.images.shape)
    started = {}
    for backend in dict.fromkeys([EXPORTED, REFERENCE, *_configured_backends(config)]):
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


def _measure_all(measurements: list[BackendMeasurement], config: BenchmarkConfig) -> None:
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


def _compare_predictions(exported: Probabilities, reference: Probabilities) -> dict[str, Any]:
    return {
        "images": len(exported),
        "max_abs_diff": float(np.abs(exported - reference).max()),
        "argmax_agreement": float((exported.argmax(1) == reference.argmax(1)).mean()),
    }


def _scenario_results(
    measurement: BackendMeasurement,
    server: ServerResult,
    models: ModelPaths,
    config: BenchmarkConfig,
) -> dict[str, Any]:
    """Return each scenario's result, at the batch size and number of threads that are the backend's best."""
    batch1_rows = [row for row in measurement.summarize_all() if row["batch_size"] == 1]
    single = min(batch1_rows, key=lambda row: row["latency_ms"]["p90"])
    return {
        "single_stream": {"p90_ms": single["latency_ms"]["p90"], "threads": single["threads"]},
        "offline": measurement.best_offline(),
        "server": {
            "images_per_second": server.passing_qps,
            "failed_images_per_second": server.failing_qps,
            "p99_ms": server.p99_ms,
            "latency_bound_ms": config.server_target_latency_ms,
            "threads": server.threads,
        },
        "accuracy": measurement.accuracy,
        "model_kb": measurement.backend.select_file(models).stat().st_size / 1000,
        "rss_mb": measurement.rss_mb,
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
