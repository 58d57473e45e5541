"""The stage `benchmark`: how fast the exported model is on each engine, and whether it is still the same.

In the terms of MLPerf Inference (Reddi et al. 2020, https://arxiv.org/abs/1911.02549): SingleStream is one
picture after the other, Offline all of them at once, Server pictures that arrive by chance.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from tasks.inference.backends import Engine, Images, Models, NotAtHandError, Run, engines, resident_mb
from tasks.inference.onnx_classifier import CPU
from tasks.workspace.errors import RunError
from tasks.workspace.files import written_whole
from tasks.workspace.splits import read_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from tasks.params import Benchmark

ACCURACY_BATCH = 250
SERVER_STEPS = 6  # halvings of the span in which the highest rate lies: it is known to 1/64 of it
REST_S = (
    0.06  # before a turn: ONNX Runtime's threads spin for 40 ms in wait for work, and take it from the next
)
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "openvino", "numpy")
FLAGS = ("sse4_2", "f16c", "fma", "avx", "amx", "asimd", "sve", "bf16")  # what kernels are chosen by


@dataclass
class Contestant:
    """An engine with what was measured of it."""

    engine: Engine
    runs: dict[int, Run]
    """by number of threads"""
    accuracy: float = 0.0
    seconds: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    """by number of threads and batch size: a list a round, a value a call"""


@dataclass
class Served:
    """The Server scenario of an engine: the highest rate that held, and the lowest that did not.

    In pictures a second. What cannot hold, without a trial, is the engine's Offline throughput.
    """

    holds: float
    fails: float
    p99_ms: float = 0.0
    threads: int = 0


def benchmark(
    splits: Path, weights: Path, onnx_model: Path, int8_model: Path, benchmarks: Path, options: Benchmark
) -> dict[str, Any]:
    """Write `benchmarks` (JSON, as docs/files.md says), measured on the test images."""
    data = read_splits(splits)
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    models = Models(str(weights), str(onnx_model), str(int8_model))
    load = _Load()
    with _torch_threads_kept():
        contestants, not_measured = _opened(models, options)
        # Parity is held whichever engines are measured: a promotion rests on it (tasks/registry/compare.py).
        exported, reference = (
            _classified(engine.open(models, max(options.threads)), images)
            for engine in (Engine("onnxruntime", "fp32", CPU), Engine("pytorch", "fp32", "cpu"))
        )
        for contestant in contestants:
            found = _classified(contestant.runs[max(contestant.runs)], images)
            contestant.accuracy = float((found.argmax(1) == labels).mean())
        for threads in options.threads:
            for batch_size in sorted({1, *options.batch_sizes}):
                _take_turns(
                    [c for c in contestants if threads in c.runs], images, threads, batch_size, options
                )
        served = _serve(contestants, images, options)

    results = [
        _row(contestant, threads, batch_size)
        for contestant in contestants
        for threads, batch_size in contestant.seconds
    ]
    report = {
        "dataset": data.about["dataset"],
        "environment": environment(options.threads) | {"other_load_percent": load.percent()},
        "parity": {
            "images": len(images),
            "max_abs_diff": float(np.abs(exported - reference).max()),
            "argmax_agreement": float((exported.argmax(1) == reference.argmax(1)).mean()),
        },
        "scenarios": {
            contestant.engine.name: _scenarios(contestant, served[contestant.engine], models, options)
            for contestant in contestants
        },
        "not_measured": not_measured,
        "results": results,
    }
    with written_whole(benchmarks) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _say(report)
    return {"images_per_second": max(row["images_per_second"] for row in results)}


def _opened(models: Models, options: Benchmark) -> tuple[list[Contestant], dict[str, str]]:
    """Those that are at hand, and of the others why they are not. On a GPU threads make no difference."""
    contestants, missing = [], {}
    for engine in engines(options.engines, options.providers):
        on_host = engine.provider in {CPU, "CPU", "cpu"}
        try:
            runs = {n: engine.open(models, n) for n in (options.threads if on_host else options.threads[:1])}
        except NotAtHandError as error:
            missing[engine.name] = str(error)
        else:
            contestants.append(Contestant(engine, runs))
    if not contestants:
        raise RunError(f"no engine is at hand: {'; '.join(missing.values())}")
    return contestants, missing


def _classified(run: Run, images: Images) -> NDArray[np.float32]:
    batches = np.split(images, range(ACCURACY_BATCH, len(images), ACCURACY_BATCH))
    return np.concatenate([run(batch) for batch in batches])


def _take_turns(
    contestants: Sequence[Contestant], images: Images, threads: int, batch_size: int, options: Benchmark
) -> None:
    """Time calls, the contestants taking turns, so that a change of the machine's speed hits all of them."""
    batches = [_batch(images, i * batch_size, batch_size) for i in range(8)]
    for contestant in contestants:
        contestant.seconds[threads, batch_size] = []
        _time_calls(contestant.runs[threads], batches, options.warmup_s)
    for _ in range(options.rounds):
        for contestant in contestants:
            _rest(contestant.runs[threads], batches[0])
            contestant.seconds[threads, batch_size].append(
                _time_calls(contestant.runs[threads], batches, options.measure_s / options.rounds)
            )


def _rest(run: Run, batch: Images) -> None:
    """Wait until the threads of the engine before sleep, and wake those of the next."""
    time.sleep(REST_S)
    run(batch)


def _batch(images: Images, start: int, size: int) -> Images:
    """So many images from `start` on, from the first again after the last."""
    return np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])


def _time_calls(run: Run, batches: Sequence[Images], seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        batch = batches[len(taken) % len(batches)]
        began = time.perf_counter()
        run(batch)
        taken.append(time.perf_counter() - began)
    return taken


def _serve(contestants: Sequence[Contestant], images: Images, options: Benchmark) -> dict[Engine, Served]:
    """The Server scenario, a step of the search for each contestant in turn."""
    served = {}
    for contestant in contestants:
        best = _fastest(contestant)
        served[contestant.engine] = Served(0.0, best["images_per_second"], threads=best["threads"])
        size = 1
        while size <= max(options.batch_sizes):  # engines that prepare for each new size do so here
            contestant.runs[best["threads"]](_batch(images, 0, size))
            size *= 2
    for step in range(SERVER_STEPS):
        for contestant in contestants:
            state = served[contestant.engine]
            rate = (state.holds + state.fails) / 2
            for attempt in range(2):  # a neighbor on the machine is no fault of the engine's
                _rest(contestant.runs[state.threads], images[:1])
                arrivals = arrivals_of(rate, options.server_trial_s, seed=2 * step + attempt)
                latencies = serve(contestant.runs[state.threads], images, arrivals, max(options.batch_sizes))
                p99_ms = float(np.percentile(latencies, 99) * 1000)
                if p99_ms <= options.server_latency_ms:
                    state.holds, state.p99_ms = rate, p99_ms
                    break
            else:
                state.fails = rate
    return served


def arrivals_of(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """When pictures arrive, in seconds from the start: a Poisson process of `rate` a second, one at least."""
    count = max(1, round(rate * seconds))
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


def serve(
    run: Run,
    images: Images,
    arrivals: NDArray[np.float64],
    largest_batch: int,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """From arrival to answer, in seconds, of pictures that arrive at those times.

    One server, first come, first served: whoever waits when it is free goes into its next batch together.
    """
    latencies = np.empty(len(arrivals))
    endless = np.concatenate([images, images[:largest_batch]])
    start, done = clock(), 0
    while done < len(arrivals):
        now = clock() - start
        waiting = int(np.searchsorted(arrivals, now, side="right")) - done
        if waiting <= 0:
            continue  # on watch, as a server under a bound of milliseconds is
        size = min(waiting, largest_batch)
        first = done % len(images)
        run(endless[first : first + size])
        latencies[done : done + size] = clock() - start - arrivals[done : done + size]
        done += size
    return latencies


def _row(contestant: Contestant, threads: int, batch_size: int) -> dict[str, Any]:
    rounds = contestant.seconds[threads, batch_size]
    rates = [batch_size / float(np.median(calls)) for calls in rounds]
    milliseconds = np.concatenate(rounds) * 1000
    p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, [50, 90, 99]))
    return {
        "engine": contestant.engine.engine,
        "provider": contestant.engine.provider,
        "precision": contestant.engine.precision,
        "batch_size": batch_size,
        "threads": threads,
        "calls": len(milliseconds),
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
        "images_per_second": float(np.median(rates)),
        "images_per_second_range": [min(rates), max(rates)],
        "accuracy": contestant.accuracy,
    }


def _fastest(contestant: Contestant) -> dict[str, Any]:
    """The row that gets through the most pictures."""
    return max(
        (_row(contestant, *key) for key in contestant.seconds), key=lambda row: row["images_per_second"]
    )


def _scenarios(contestant: Contestant, served: Served, models: Models, options: Benchmark) -> dict[str, Any]:
    """Each scenario at the batch size and number of threads at which the engine does best in it."""
    singles = [_row(contestant, threads, size) for threads, size in contestant.seconds if size == 1]
    single = min(singles, key=lambda row: row["latency_ms"]["p90"])
    most = _fastest(contestant)
    file = Path(models.weights) if "torch" in contestant.engine.engine else contestant.engine.file(models)
    return {
        "single_stream": {"p90_ms": single["latency_ms"]["p90"], "threads": single["threads"]},
        "offline": {name: most[name] for name in ("images_per_second", "batch_size", "threads")},
        "server": {
            "images_per_second": served.holds,
            "fails_at_images_per_second": served.fails,
            "p99_ms": served.p99_ms,
            "latency_bound_ms": options.server_latency_ms,
            "threads": served.threads,
        },
        "accuracy": contestant.accuracy,
        "model_kb": file.stat().st_size / 1000,
        "resident_mb": resident_mb(contestant.engine, models, max(contestant.runs), max(options.batch_sizes)),
    }


def _say(report: dict[str, Any]) -> None:
    for name, scenario in report["scenarios"].items():
        print(
            f"{name}: single stream p90 {scenario['single_stream']['p90_ms']:.3f} ms, "
            f"offline {scenario['offline']['images_per_second']:,.0f} images/s, "
            f"server {scenario['server']['images_per_second']:,.0f} images/s"
        )
    for name, why in report["not_measured"].items():
        print(f"{name}: not measured; {why}")
    others = report["environment"]["other_load_percent"]
    if others > 5:
        print(f"other programs took {others:.0f}% of the machine's time meanwhile; ratios hold, times do not")


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Load:
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
    return about.get("model name", platform.machine()), [flag for flag in flags if flag.startswith(FLAGS)]
