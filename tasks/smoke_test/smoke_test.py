"""Load models in a process of their own, and check their answers, latency and memory there.

What a comparison has measured holds for the process that compared: a file of another kind, another machine or
too little memory may keep the model from serving. The images are generated, so that the test needs no data
and asks the same on every machine. `python -m tasks.smoke_test.smoke_test FILE…` is what the process runs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from tasks.inference.onnx_classifier import Images, OnnxClassifier, load_model
from tasks.processes import describe_exit, exit_with_parent, python_path
from tasks.workspace.errors import RunError

NUM_IMAGES = 16
PATCHES = 4
"""patches of one color along each side of a generated image"""
NUM_THREADS = 2
"""threads of ONNX Runtime, as in comparisons"""
MAX_DIFFERENCE = 0.01
"""how much a probability may differ, since another processor rounds differently"""
TIMEOUT_S = 120.0
"""time to start, to load the model and to answer"""
MAX_LATENCY_MS = 1000.0
"""median time for one image; comparisons hold models to more, so this only finds what does not serve"""
MAX_MEMORY_MB = 4000.0

Answer = tuple[int, float]
"""the most probable class of an image, by its number, and its probability"""


def generate_images(size: int) -> Images:
    """Return the images `(N, size, size, 3)`, which are the same everywhere: patches of random colors."""
    colors = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, PATCHES, PATCHES, 3), np.uint8)
    patch = -(-size // PATCHES)
    return np.ascontiguousarray(colors.repeat(patch, 1).repeat(patch, 2)[:, :size, :size])


def ask(model: OnnxClassifier) -> list[Answer]:
    """Return the model's answers to the generated images, to be compared with later ones."""
    probabilities = model.predict_proba(generate_images(model.image_size))
    return [(int(row.argmax()), round(float(row.max()), 6)) for row in probabilities]


def find_problem(answers: Mapping[Path, Sequence[Answer]], timeout_s: float = TIMEOUT_S) -> str:
    """Use the models in a fresh process; say in one line why one must not serve, or return an empty text.

    `answers` are by each model's file those that it gave when it was compared; where there are none, only the
    other checks are made.
    """
    names = " and ".join(map(str, answers))
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(  # noqa: S603 - no argument from outside
                [sys.executable, "-P", "-m", "tasks.smoke_test.smoke_test", *map(str, answers)],
                env=os.environ | {"PYTHONPATH": python_path()},
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{names} has not answered within {timeout_s:g} s"
        if done.returncode:
            return f"the process that uses {names} {describe_exit(done.returncode, errors)}"
    measured = json.loads(done.stdout.splitlines()[-1])
    problems = (_judge(file, each, answers[file]) for file, each in zip(answers, measured, strict=True))
    return next(filter(None, problems), "")


def _judge(file: Path, used: dict[str, Any], answers: Sequence[Answer]) -> str:
    """Say why what the process has measured is not good enough; empty where it is."""
    probabilities = np.array(used["probabilities"], np.float64)
    if not np.isfinite(probabilities).all():
        return f"{file} answers with numbers that are no probabilities"
    differences = [abs(row[k] - was) for row, (k, was) in zip(probabilities, answers, strict=False)]
    if max(differences, default=0.0) > MAX_DIFFERENCE:
        return (
            f"{file} answers otherwise than when it was compared: probabilities differ by up to "
            f"{max(differences):.2g} (allowed: {MAX_DIFFERENCE:g})"
        )
    if used["latency_ms"] > MAX_LATENCY_MS:
        return f"{file} takes {used['latency_ms']:,.0f} ms for an image (allowed: {MAX_LATENCY_MS:,.0f})"
    if used["memory_mb"] > MAX_MEMORY_MB:
        return f"{file} takes {used['memory_mb']:,.0f} MB of memory (allowed: {MAX_MEMORY_MB:,.0f})"
    return ""


def measure(file: Path) -> dict[str, Any]:
    """Load the model and answer, first all images at once and then one by one; return what was measured."""
    model = load_model(file, NUM_THREADS)
    images = generate_images(model.image_size)
    probabilities = model.predict_proba(images)
    seconds = []
    for i in range(len(images)):
        start = time.perf_counter()
        model.predict_proba(images[i : i + 1])
        seconds.append(time.perf_counter() - start)
    return {
        "probabilities": probabilities.tolist(),
        "latency_ms": 1000 * median(seconds),
        "memory_mb": psutil.Process().memory_info().rss / 1e6,
    }


if __name__ == "__main__":
    exit_with_parent()
    try:
        print(json.dumps([measure(Path(file)) for file in sys.argv[1:]]))
    except RunError as error:
        sys.exit(str(error))
