"""What PyTorch's exporter writes against what ships: pictures a second on ONNX Runtime, in one run.

    python benchmarks/export.py [--rounds 11] [--threads 2]

Both are measured in turns, so that a change of the machine's speed hits both; needs artifacts/, so run the
pipeline first. The ratio is the median of the rounds' ratios.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime

from tasks.artifacts import read_classifier, read_splits
from tasks.export import plainly_converted

SECONDS = 0.2


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def rate(running: onnxruntime.InferenceSession, batch: np.ndarray) -> float:
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
    classifier, _ = read_classifier(Path("artifacts/model.safetensors"))
    images = read_splits(Path("artifacts/splits.safetensors")).test.images.numpy()
    plain = session(plainly_converted(classifier, 18).SerializeToString(), arguments.threads)
    ships = session(Path("artifacts/model.onnx").read_bytes(), arguments.threads)
    ours, theirs = (s.run(None, {"images": images})[0] for s in (ships, plain))
    print(f"load average {os.getloadavg()[0]:.1f}, threads {arguments.threads}, {arguments.rounds} rounds")
    print(
        f"{len(images):,} test images: {int((ours.argmax(1) != theirs.argmax(1)).sum())} other classes, "
        f"probabilities differ by up to {np.abs(ours - theirs).max():.1e}"
    )
    print("batch      plain      ships   ratio (least to most)")
    for size in (1, 32, 256):
        batch = np.ascontiguousarray(images[:size])
        for one in (plain, ships):
            rate(one, batch)
        pairs = [(rate(plain, batch), rate(ships, batch)) for _ in range(arguments.rounds)]
        before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in pairs)
        print(
            f"{size:5} {before:10,.0f} {after:10,.0f}    {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
