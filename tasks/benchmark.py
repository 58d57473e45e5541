"""The stage `benchmark`: how fast the exported model is, and whether it is still the same."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch

from tasks.artifacts import read_classifier, read_splits
from tasks.errors import RunError
from tasks.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tasks.params import Benchmark

    Images = NDArray[np.uint8]
    Probabilities = NDArray[np.float32]

ACCURACY_BATCH = 250


@dataclass
class Contestant:
    engine: str
    provider: str
    precision: str
    run: Callable[[Images], Probabilities]
    accuracy: float = 0.0
    seconds: dict[int, list[float]] = field(default_factory=dict)
    """by batch size, a value a call"""


def benchmark(
    splits: Path, weights: Path, onnx_model: Path, benchmarks: Path, options: Benchmark
) -> dict[str, Any]:
    """Write `benchmarks` (JSON, as docs/files.md says) on the test images."""
    data = read_splits(splits)
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    classifier, _ = read_classifier(weights)
    with _torch_threads(options.threads), torch.inference_mode():
        session = _session(onnx_model, options.threads)
        contestants = [
            Contestant(
                "onnxruntime",
                "CPUExecutionProvider",
                "fp32",
                lambda batch: np.asarray(session.run(None, {"images": batch})[0]),
            ),
            Contestant("pytorch", "cpu", "fp32", lambda batch: classifier(torch.from_numpy(batch)).numpy()),
        ]
        outputs = [_classified(contestant, images) for contestant in contestants]
        for contestant, output in zip(contestants, outputs, strict=True):
            contestant.accuracy = float((output.argmax(1) == labels).mean())
        for batch_size in options.batch_sizes:
            _measure(contestants, images, batch_size, options)

    results = [
        _row(contestant, batch_size, options.threads)
        for contestant in contestants
        for batch_size in options.batch_sizes
    ]
    report = {
        "dataset": data.about["dataset"],
        "environment": environment(options.threads),
        "parity": {
            "images": len(images),
            "max_abs_diff": float(np.abs(outputs[0] - outputs[1]).max()),
            "argmax_agreement": float((outputs[0].argmax(1) == outputs[1].argmax(1)).mean()),
        },
        "results": results,
    }
    with written_whole(benchmarks) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for row in results:
        print(
            f"{row['engine']} {row['precision']}, batch {row['batch_size']}: "
            f"{row['images_per_second']:,.0f} images/s, p50 {row['latency_ms']['p50']:.3f} ms"
        )
    return {"images_per_second": max(row["images_per_second"] for row in results)}


def _session(onnx_model: Path, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(onnx_model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        raise RunError(f"{onnx_model} cannot be loaded: {str(error).splitlines()[0]}") from error
    inputs, outputs = (
        [(x.name, x.type, x.shape[1:]) for x in xs] for xs in (session.get_inputs(), session.get_outputs())
    )
    if inputs != [("images", "tensor(uint8)", [32, 32, 3])] or outputs != [
        ("probabilities", "tensor(float)", [10])
    ]:
        raise RunError(f"{onnx_model} is another network's: it takes {inputs} and gives {outputs}")
    return session


def _classified(contestant: Contestant, images: Images) -> Probabilities:
    batches = np.split(images, range(ACCURACY_BATCH, len(images), ACCURACY_BATCH))
    return np.concatenate([contestant.run(batch) for batch in batches])


def _measure(contestants: list[Contestant], images: Images, batch_size: int, options: Benchmark) -> None:
    """Time calls, the contestants taking turns, so that a change of the machine's speed hits all of them."""
    batches = [
        np.ascontiguousarray(np.resize(np.roll(images, -i * batch_size, 0), (batch_size, 32, 32, 3)))
        for i in range(8)
    ]
    for contestant in contestants:
        contestant.seconds[batch_size] = []
        _time_calls(contestant, batches, options.warmup_s)
    for _ in range(options.rounds):
        for contestant in contestants:
            contestant.seconds[batch_size] += _time_calls(
                contestant, batches, options.measure_s / options.rounds
            )


def _time_calls(contestant: Contestant, batches: list[Images], seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        batch = batches[len(taken) % len(batches)]
        began = time.perf_counter()
        contestant.run(batch)
        taken.append(time.perf_counter() - began)
    return taken


def _row(contestant: Contestant, batch_size: int, threads: int) -> dict[str, Any]:
    seconds = np.array(contestant.seconds[batch_size])
    p50, p90, p99 = (float(value) for value in np.percentile(seconds * 1000, [50, 90, 99]))
    return {
        "engine": contestant.engine,
        "provider": contestant.provider,
        "precision": contestant.precision,
        "batch_size": batch_size,
        "threads": threads,
        "calls": len(seconds),
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
        "images_per_second": float(batch_size / np.median(seconds)),
        "accuracy": contestant.accuracy,
    }


def environment(threads: int) -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
        },
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # only Linux has it
        return platform.processor() or platform.machine()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
