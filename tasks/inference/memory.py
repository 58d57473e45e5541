"""Memory of one backend: `python -m tasks.inference.memory TASK` loads it, runs it and prints its size."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil

from tasks.inference.backends import Backend, ModelPaths
from tasks.workspace.errors import RunError

ROOT = Path(__file__).resolve().parents[2]


def measure_rss_mb(backend: Backend, models: ModelPaths, threads: int, batch: tuple[int, ...]) -> float:
    """Resident memory, in 10^6 bytes, of a process that has run such batches on the backend, nothing else."""
    task = {
        "backend": asdict(backend),
        "models": asdict(models),
        "threads": threads,
        "batch": batch,
    }
    process = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", "tasks.inference.memory", json.dumps(task)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1]
        raise RunError(f"{backend.name} failed in a process of its own: {reason}")
    return float(process.stdout.splitlines()[-1])


def main(text: str) -> None:
    task = json.loads(text)
    predict = Backend(**task["backend"]).load(ModelPaths(**task["models"]), task["threads"])
    for _ in range(3):
        predict(np.zeros(task["batch"], np.uint8))
    print(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    main(sys.argv[1])
