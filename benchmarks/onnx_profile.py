"""Measure how long each operator takes in ONNX Runtime on one thread, and how fast the processor can be.

    python benchmarks/onnx_profile.py

Profiled are the exporter's graph and the exported model. The script needs artifacts/, so run the pipeline
first.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from throughput import create_session

from tasks.onnx.graph import torch_onnx_export
from tasks.params import read_params
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

BATCH_SIZES = (32, 256)
CALLS = 100


def measure_matmul_gflops(side: int = 512) -> float:
    a, b = torch.rand(side, side), torch.rand(side, side)
    torch.set_num_threads(1)
    for _ in range(20):
        a @ b
    start = time.perf_counter()
    for _ in range(50):
        a @ b
    return 50 * 2 * side**3 / (time.perf_counter() - start) / 1e9


def profile_operators(model: bytes, batch: NDArray[np.uint8]) -> dict[str, float]:
    """Return the median microseconds per image of each operator."""
    with tempfile.TemporaryDirectory() as folder:
        session = create_session(model, 1, enable_profiling=True, profile_file_prefix=f"{folder}/p")
        for _ in range(CALLS):
            session.run(None, {"images": batch})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[str, list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = f"{event['args']['op_name']} {event['name'].removesuffix('_kernel_time')}"
            durations.setdefault(operator, []).append(event["dur"])
    return {operator: statistics.median(times) / len(batch) for operator, times in durations.items()}


def main() -> None:
    params = read_params(Path("params.yaml"))
    images = load_splits(Path(params.paths.splits)).test.images.numpy()
    classifier, _ = load_classifier(Path(params.paths.weights))
    models = {
        "PyTorch's exporter": torch_onnx_export(classifier, 18).SerializeToString(),
        "exported model": Path(params.paths.onnx_model).read_bytes(),
    }
    print(f"matrix product, 512 x 512, on one thread: {measure_matmul_gflops():.0f} GFLOP/s")
    for name, model in models.items():
        for batch_size in BATCH_SIZES:
            operators = profile_operators(model, np.ascontiguousarray(images[:batch_size]))
            total = sum(operators.values())
            print(f"\n{name}, batch {batch_size}: {total:.1f} µs per image")
            for operator, microseconds in sorted(operators.items(), key=lambda item: -item[1]):
                print(f"  {microseconds:6.2f}  {microseconds / total:4.0%}  {operator}")


if __name__ == "__main__":
    main()
