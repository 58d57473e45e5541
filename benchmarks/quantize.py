"""What ships in fp32 against 8-bit forms of the same weights: pictures a second on ONNX Runtime, in one run.

    python benchmarks/quantize.py [--rounds 11] [--threads 2]

All are measured in turns, so that a change of the machine's speed hits all; needs artifacts/, so run the
pipeline first. Ratios are medians of the rounds' ratios to artifacts/model.onnx.
"""

import argparse
import io
import logging
import os
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from tasks.export import torch_onnx_export
from tasks.inference.fp32_graph import build_fp32_graph
from tasks.inference.int8_graph import build_int8_graph
from tasks.quantize import QUANTIZED_OPS
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

SECONDS = 0.2
REST_S = (
    0.06  # before a turn: ONNX Runtime's threads spin for 40 ms in wait for work, and take it from the next
)


class Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter(np.split(images, 4))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def quantized(model: onnx.ModelProto, images: np.ndarray, **options: object) -> bytes:
    """By the library's usual call, per channel."""
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8} | options
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_static(source, target, Images(images), per_channel=True, **types)
        return target.read_bytes()


def forms() -> dict[str, tuple[bytes, type]]:
    """By name, a file and the type of the pictures that it takes."""
    logging.disable()
    classifier, _ = load_classifier(Path("artifacts/model.safetensors"))
    images = load_splits(Path("artifacts/splits.safetensors")).train.images.numpy()[:1000]
    floats = images.astype(np.float32)
    ours, layers = build_int8_graph(classifier, 13), {"op_types_to_quantize": QUANTIZED_OPS}
    return {
        "fp32, as it ships": (Path("artifacts/model.onnx").read_bytes(), np.uint8),
        "int8, as it ships": (Path("artifacts/model.int8.onnx").read_bytes(), np.uint8),
        "exporter's graph, quantized": (quantized(torch_onnx_export(classifier, 18), images), np.uint8),
        "fp32's graph, quantized": (quantized(build_fp32_graph(classifier, 13), images), np.uint8),
        "int8's graph, quantized": (quantized(ours, floats, **layers), np.float32),
        "the same, activations int8": (
            quantized(ours, floats, activation_type=QuantType.QInt8, **layers),
            np.float32,
        ),
        "the same, weights uint8": (
            quantized(ours, floats, weight_type=QuantType.QUInt8, **layers),
            np.float32,
        ),
        "the same, dense layers fp32": (
            quantized(ours, floats, op_types_to_quantize=["Conv", "Relu"]),
            np.float32,
        ),
    }


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def rate(running: onnxruntime.InferenceSession, batch: np.ndarray) -> float:
    time.sleep(REST_S)
    running.run(None, {"images": batch})
    calls, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < SECONDS:
        running.run(None, {"images": batch})
        calls += 1
    return calls * len(batch) / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    test = load_splits(Path("artifacts/splits.safetensors")).test
    images, labels = test.images.numpy(), test.labels.numpy()
    running = {name: (session(file, arguments.threads), kind) for name, (file, kind) in forms().items()}
    print(f"load average {os.getloadavg()[0]:.1f}, threads {arguments.threads}, {arguments.rounds} rounds")
    for name, (one, kind) in running.items():
        batches = np.split(images.astype(kind), 10)
        classes = np.concatenate([one.run(None, {"images": batch})[0].argmax(1) for batch in batches])
        print(f"{name:30} test accuracy {(classes == labels).mean():.2%}")
    print(f"{'batch':36} images/s   ratio (least to most)")
    for size in (1, 32, 256):
        batches = {kind: np.ascontiguousarray(images[:size]).astype(kind) for kind in (np.uint8, np.float32)}
        rates: dict[str, list[float]] = {name: [] for name in running}
        for turn in range(arguments.rounds + 1):
            for name, (one, kind) in running.items():
                found = rate(one, batches[kind])
                if turn:  # the first one warms up
                    rates[name].append(found)
        first = next(iter(rates.values()))
        for name, found in rates.items():
            ratios = sorted(b / a for a, b in zip(first, found, strict=True))
            print(
                f"{size:5} {name:30} {statistics.median(found):10,.0f}   {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
