"""The stage `benchmark`: how fast the exported model is on each engine, and whether it is still the same.

In the terms of MLPerf Inference (Reddi et al. 2020, https://arxiv.org/abs/1911.02549): SingleStream is one
picture after the other, Offline all of them at once, Server pictures that arrive by chance.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tasks.inference.backends import (
    Backend,
    BackendUnavailableError,
    Images,
    ModelPaths,
    Predictor,
    expand_backends,
    measure_rss_mb,
)
from tasks.inference.onnx_classifier import CPU
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.splits import load_splits
from tasks.workspace.torch_settings import num_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tasks.params import BenchmarkConfig

PREDICT_BATCH_SIZE = 250
BISECTION_STEPS = 6  # halvings of the span in which the highest rate lies: it is known to 1/64 of it
COOLDOWN_S = (
    0.06  # before a turn: ONNX Runtime's threads spin for 40 ms in wait for work, and take it from the next
)
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "openvino", "numpy")
CPU_FLAG_PREFIXES = (
    "sse4_2",
    "f16c",
    "fma",
    "avx",
    "amx",
    "asimd",
    "sve",
    "bf16",
)  # what kernels are chosen by


@dataclass
class BackendMeasurement:
    """An engine with what was measured of it."""

    engine: Backend
    runs: dict[int, Predictor]
    """by number of threads"""
    accuracy: float = 0.0
    latencies: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    """by number of threads and batch size: a list a round, a value a call"""


@dataclass
class ServerSearch:
    """The Server scenario of an engine: the highest rate that held, and the lowest that did not.

    In pictures a second. What cannot hold, without a trial, is the engine's Offline throughput.
    """

    passing_qps: float
    failing_qps: float
    p99_ms: float = 0.0
    threads: int = 0


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
    load = BackgroundLoad()
    with num_threads():
        contestants, skipped = _load_backends(models, config)
        # Parity is held whichever engines are measured: a promotion rests on it (tasks/registry/compare.py).
        exported, reference = (
            _predict_all(engine.load(models, max(config.threads)), images)
            for engine in (Backend("onnxruntime", "fp32", CPU), Backend("pytorch", "fp32", "cpu"))
        )
        for contestant in contestants:
            found = _predict_all(contestant.runs[max(contestant.runs)], images)
            contestant.accuracy = float((found.argmax(1) == labels).mean())
        for threads in config.threads:
            for batch_size in sorted({1, *config.batch_sizes}):
                _measure_interleaved(
                    [c for c in contestants if threads in c.runs], images, threads, batch_size, config
                )
        served = _server_scenario(contestants, images, config)

    results = [
        _summarize(contestant, threads, batch_size)
        for contestant in contestants
        for threads, batch_size in contestant.latencies
    ]
    report = {
        "dataset": data.metadata["dataset"],
        "environment": environment(config.threads) | {"background_cpu_percent": load.percent()},
        "parity": {
            "images": len(images),
            "max_abs_diff": float(np.abs(exported - reference).max()),
            "argmax_agreement": float((exported.argmax(1) == reference.argmax(1)).mean()),
        },
        "scenarios": {
            contestant.engine.name: _scenario_results(contestant, served[contestant.engine], models, config)
            for contestant in contestants
        },
        "skipped": skipped,
        "results": results,
    }
    with atomic_write(benchmarks) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_summary(report)
    return {"images_per_second": max(row["images_per_second"] for row in results)}


def _load_backends(
    models: ModelPaths, config: BenchmarkConfig
) -> tuple[list[BackendMeasurement], dict[str, str]]:
    """Those that are at hand, and of the others why they are not. On a GPU threads make no difference."""
    contestants, missing = [], {}
    for engine in expand_backends(config.backends, config.providers):
        on_host = engine.provider in {CPU, "CPU", "cpu"}
        try:
            runs = {n: engine.load(models, n) for n in (config.threads if on_host else config.threads[:1])}
        except BackendUnavailableError as error:
            missing[engine.name] = str(error)
        else:
            contestants.append(BackendMeasurement(engine, runs))
    if not contestants:
        raise RunError(f"no engine is at hand: {'; '.join(missing.values())}")
    return contestants, missing


def _predict_all(run: Predictor, images: Images) -> NDArray[np.float32]:
    batches = np.split(images, range(PREDICT_BATCH_SIZE, len(images), PREDICT_BATCH_SIZE))
    return np.concatenate([run(batch) for batch in batches])


def _measure_interleaved(
    contestants: Sequence[BackendMeasurement],
    images: Images,
    threads: int,
    batch_size: int,
    config: BenchmarkConfig,
) -> None:
    """Time calls, the contestants taking turns, so that a change of the machine's speed hits all of them."""
    batches = [_cyclic_batch(images, i * batch_size, batch_size) for i in range(8)]
    for contestant in contestants:
        contestant.latencies[threads, batch_size] = []
        _time_calls(contestant.runs[threads], batches, config.warmup_s)
    for _ in range(config.rounds):
        for contestant in contestants:
            _cool_down(contestant.runs[threads], batches[0])
            contestant.latencies[threads, batch_size].append(
                _time_calls(contestant.runs[threads], batches, config.min_duration_s / config.rounds)
            )


def _cool_down(run: Predictor, batch: Images) -> None:
    """Wait until the threads of the engine before sleep, and wake those of the next."""
    time.sleep(COOLDOWN_S)
    run(batch)


def _cyclic_batch(images: Images, start: int, size: int) -> Images:
    """So many images from `start` on, from the first again after the last."""
    return np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])


def _time_calls(run: Predictor, batches: Sequence[Images], seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        batch = batches[len(taken) % len(batches)]
        began = time.perf_counter()
        run(batch)
        taken.append(time.perf_counter() - began)
    return taken


def _server_scenario(
    contestants: Sequence[BackendMeasurement], images: Images, config: BenchmarkConfig
) -> dict[Backend, ServerSearch]:
    """The Server scenario, a step of the search for each contestant in turn."""
    served = {}
    for contestant in contestants:
        best = _best_throughput(contestant)
        served[contestant.engine] = ServerSearch(0.0, best["images_per_second"], threads=best["threads"])
        size = 1
        while size <= max(config.batch_sizes):  # engines that prepare for each new size do so here
            contestant.runs[best["threads"]](_cyclic_batch(images, 0, size))
            size *= 2
    for step in range(BISECTION_STEPS):
        for contestant in contestants:
            state = served[contestant.engine]
            rate = (state.passing_qps + state.failing_qps) / 2
            for attempt in range(2):  # a neighbor on the machine is no fault of the engine's
                _cool_down(contestant.runs[state.threads], images[:1])
                arrivals = poisson_arrivals(rate, config.server_min_duration_s, seed=2 * step + attempt)
                latencies = simulate_server(
                    contestant.runs[state.threads], images, arrivals, max(config.batch_sizes)
                )
                p99_ms = float(np.percentile(latencies, 99) * 1000)
                if p99_ms <= config.server_target_latency_ms:
                    state.passing_qps, state.p99_ms = rate, p99_ms
                    break
            else:
                state.failing_qps = rate
    return served


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """When pictures arrive, in seconds from the start: a Poisson process of `rate` a second, one at least."""
    count = max(1, round(rate * seconds))
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


def simulate_server(
    run: Predictor,
    images: Images,
    arrivals: NDArray[np.float64],
    max_batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """From arrival to answer, in seconds, of pictures that arrive at those times.

    One server, first come, first served: whoever waits when it is free goes into its next batch together.
    """
    latencies = np.empty(len(arrivals))
    wrapped_images = np.concatenate([images, images[:max_batch_size]])
    start, done = clock(), 0
    while done < len(arrivals):
        now = clock() - start
        waiting = int(np.searchsorted(arrivals, now, side="right")) - done
        if waiting <= 0:
            continue  # on watch, as a server under a bound of milliseconds is
        size = min(waiting, max_batch_size)
        first = done % len(images)
        run(wrapped_images[first : first + size])
        latencies[done : done + size] = clock() - start - arrivals[done : done + size]
        done += size
    return latencies


def _summarize(contestant: BackendMeasurement, threads: int, batch_size: int) -> dict[str, Any]:
    rounds = contestant.latencies[threads, batch_size]
    rates = [batch_size / float(np.median(calls)) for calls in rounds]
    milliseconds = np.concatenate(rounds) * 1000
    p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, [50, 90, 99]))
    return {
        "backend": contestant.engine.engine,
        "provider": contestant.engine.provider,
        "precision": contestant.engine.precision,
        "batch_size": batch_size,
        "threads": threads,
        "num_calls": len(milliseconds),
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
        "images_per_second": float(np.median(rates)),
        "images_per_second_range": [min(rates), max(rates)],
        "accuracy": contestant.accuracy,
    }


def _best_throughput(contestant: BackendMeasurement) -> dict[str, Any]:
    """The row that gets through the most pictures."""
    return max(
        (_summarize(contestant, *key) for key in contestant.latencies),
        key=lambda row: row["images_per_second"],
    )


def _scenario_results(
    contestant: BackendMeasurement, served: ServerSearch, models: ModelPaths, config: BenchmarkConfig
) -> dict[str, Any]:
    """Each scenario at the batch size and number of threads at which the engine does best in it."""
    batch1_rows = [
        _summarize(contestant, threads, size) for threads, size in contestant.latencies if size == 1
    ]
    single = min(batch1_rows, key=lambda row: row["latency_ms"]["p90"])
    most = _best_throughput(contestant)
    file = Path(models.weights) if "torch" in contestant.engine.engine else contestant.engine.file(models)
    return {
        "single_stream": {"p90_ms": single["latency_ms"]["p90"], "threads": single["threads"]},
        "offline": {name: most[name] for name in ("images_per_second", "batch_size", "threads")},
        "server": {
            "images_per_second": served.passing_qps,
            "failed_images_per_second": served.failing_qps,
            "p99_ms": served.p99_ms,
            "latency_bound_ms": config.server_target_latency_ms,
            "threads": served.threads,
        },
        "accuracy": contestant.accuracy,
        "model_kb": file.stat().st_size / 1000,
        "rss_mb": measure_rss_mb(contestant.engine, models, max(contestant.runs), max(config.batch_sizes)),
    }


def _print_summary(report: dict[str, Any]) -> None:
    for name, scenario in report["scenarios"].items():
        print(
            f"{name}: single stream p90 {scenario['single_stream']['p90_ms']:.3f} ms, "
            f"offline {scenario['offline']['images_per_second']:,.0f} images/s, "
            f"server {scenario['server']['images_per_second']:,.0f} images/s"
        )
    for name, why in report["skipped"].items():
        print(f"{name}: not measured; {why}")
    others = report["environment"]["background_cpu_percent"]
    if others > 5:
        print(f"other programs took {others:.0f}% of the machine's time meanwhile; ratios hold, times do not")


class BackgroundLoad:
    """What share of the machine's processors others take, from when this is made on."""

    def __init__(self) -> None:
        self._began = self._times()

    def percent(self) -> float:
        busy, own, wall = (now - before for now, before in zip(self._times(), self._began, strict=True))
        return round(max(0.0, 100 * (busy - own) / (wall * (os.cpu_count() or 1))), 1)

    def _times(self) -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return (
            sum(machine[:8]) - idle,  # what follows on Linux, time of guests, is counted among the first
            own.user + own.system + own.children_user + own.children_system,
            time.perf_counter(),
        )


def environment(threads: Sequence[int]) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    name, flags = _cpu()
    return {
        "cpu": name,
        "flags": flags,
        "cores": os.cpu_count(),
        "threads": list(threads),
        "versions": versions,
    }


def _cpu() -> tuple[str, list[str]]:
    """The processor's name, and which of its vector instructions kernels are chosen by."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # only Linux has it
        return platform.processor() or platform.machine(), []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = about.get("flags", about.get("Features", "")).split()
    return about.get("model name", platform.machine()), [
        flag for flag in flags if flag.startswith(CPU_FLAG_PREFIXES)
    ]
