"""The stage `benchmark`: speed of the exported model on each backend, and its parity with PyTorch.

The scenarios are those of MLPerf Inference (Reddi et al. 2020, https://arxiv.org/abs/1911.02549):
SingleStream is one image after the other, Offline all of them at once, Server images that arrive at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.inference.backends import Backend, BackendUnavailableError, ModelPaths, expand_backends
from tasks.inference.batches import predict_in_batches
from tasks.inference.environment import BackgroundLoad, describe_environment
from tasks.inference.loadgen import run_server_scenario
from tasks.inference.memory import measure_rss_mb
from tasks.inference.onnx_classifier import CPU
from tasks.inference.timing import BackendMeasurement, measure_interleaved
from tasks.workspace.errors import RunError
from tasks.workspace.files import write_json
from tasks.workspace.splits import load_splits
from tasks.workspace.torch_settings import num_threads

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.inference.batches import Images, Probabilities
    from tasks.inference.loadgen import ServerResult
    from tasks.params import BenchmarkConfig

PREDICT_BATCH_SIZE = 250
MAX_BACKGROUND_PERCENT = 5


def benchmark(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    int8_model: Path,
    benchmarks: Path,
    config: BenchmarkConfig,
) -> dict[str, Any]:
    """Write `benchmarks` (JSON, as docs/files.md says), measured on the test images."""
    data = load_splits(splits)
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    models = ModelPaths(str(weights), str(onnx_model), str(int8_model))
    background = BackgroundLoad()
    with num_threads():
        measurements, skipped = _load_backends(models, config)
        # Always compared, whichever backends are measured: a promotion depends on it (registry/compare.py).
        exported, reference = (
            predict_in_batches(backend.load(models, max(config.threads)), images, PREDICT_BATCH_SIZE)
            for backend in (Backend("onnxruntime", "fp32", CPU), Backend("pytorch", "fp32", "cpu"))
        )
        for measurement in measurements:
            predict = measurement.predictors[measurement.max_threads]
            predicted = predict_in_batches(predict, images, PREDICT_BATCH_SIZE).argmax(1)
            measurement.accuracy = float((predicted == labels).mean())
        _measure_all(measurements, images, config)
        server_results = run_server_scenario(
            measurements,
            images,
            max_batch_size=max(config.batch_sizes),
            target_latency_ms=config.server_target_latency_ms,
            min_duration_s=config.server_min_duration_s,
        )

    rows = [row for measurement in measurements for row in measurement.summarize_all()]
    result = {
        "dataset": data.metadata["dataset"],
        "environment": describe_environment(config.threads)
        | {"background_cpu_percent": background.percent()},
        "parity": _compare_predictions(exported, reference),
        "scenarios": {
            measurement.backend.name: _scenario_results(
                measurement, server_results[measurement.backend], models, images.shape[1:], config
            )
            for measurement in measurements
        },
        "skipped": skipped,
        "results": rows,
    }
    write_json(benchmarks, result)
    _print_summary(result)
    return {"images_per_second": max(row["images_per_second"] for row in rows)}


def _load_backends(
    models: ModelPaths, config: BenchmarkConfig
) -> tuple[list[BackendMeasurement], dict[str, str]]:
    """The backends that are available, and why the others are not. On a GPU, threads make no difference."""
    measurements, skipped = [], {}
    for backend in expand_backends(config.backends, config.providers):
        threads = config.threads if backend.on_cpu else config.threads[:1]
        try:
            predictors = {count: backend.load(models, count) for count in threads}
        except BackendUnavailableError as error:
            skipped[backend.name] = str(error)
        else:
            measurements.append(BackendMeasurement(backend, predictors))
    if not measurements:
        raise RunError(f"no benchmark backend is available: {'; '.join(skipped.values())}")
    return measurements, skipped


def _measure_all(measurements: list[BackendMeasurement], images: Images, config: BenchmarkConfig) -> None:
    for threads in config.threads:
        for batch_size in sorted({1, *config.batch_sizes}):
            measure_interleaved(
                [measurement for measurement in measurements if threads in measurement.predictors],
                images,
                threads=threads,
                batch_size=batch_size,
                warmup_s=config.warmup_s,
                min_duration_s=config.min_duration_s,
                rounds=config.rounds,
            )


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
    image_shape: tuple[int, ...],
    config: BenchmarkConfig,
) -> dict[str, Any]:
    """Each scenario at the batch size and number of threads that are best for the backend in it."""
    batch1_rows = [row for row in measurement.summarize_all() if row["batch_size"] == 1]
    single = min(batch1_rows, key=lambda row: row["latency_ms"]["p90"])
    offline = measurement.best_throughput()
    backend = measurement.backend
    return {
        "single_stream": {"p90_ms": single["latency_ms"]["p90"], "threads": single["threads"]},
        "offline": {name: offline[name] for name in ("images_per_second", "batch_size", "threads")},
        "server": {
            "images_per_second": server.passing_qps,
            "failed_images_per_second": server.failing_qps,
            "p99_ms": server.p99_ms,
            "latency_bound_ms": config.server_target_latency_ms,
            "threads": server.threads,
        },
        "accuracy": measurement.accuracy,
        "model_kb": backend.select_file(models).stat().st_size / 1000,
        "rss_mb": measure_rss_mb(
            backend, models, measurement.max_threads, (max(config.batch_sizes), *image_shape)
        ),
    }


def _print_summary(result: dict[str, Any]) -> None:
    for name, scenario in result["scenarios"].items():
        print(
            f"{name}: single stream p90 {scenario['single_stream']['p90_ms']:.3f} ms, "
            f"offline {scenario['offline']['images_per_second']:,.0f} images/s, "
            f"server {scenario['server']['images_per_second']:,.0f} images/s"
        )
    for name, reason in result["skipped"].items():
        print(f"{name}: skipped; {reason}")
    percent = result["environment"]["background_cpu_percent"]
    if percent > MAX_BACKGROUND_PERCENT:
        print(
            f"warning: other processes used {percent:.0f}% of the CPU; "
            "ratios are reliable, absolute times are not"
        )
