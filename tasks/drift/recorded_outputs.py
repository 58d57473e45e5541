"""Record a model's predictions as JSON lines in a file, where the user opts in.

A line has the time, the SHA-256 of the model's file and the probabilities, but neither the image nor its
name. `FILE.prom` counts the predictions. A line that a crash has cut short is lost, but not the lines after
it. The file is bounded: beyond `MAX_BYTES` it is renamed `FILE.1`, which replaces an earlier one.
"""

import datetime as dt
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tasks.drift.prediction_counts import add_predictions
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import hash_file

MAX_BYTES = 8 << 20
"""largest size of the file: some 30,000 lines of ten classes"""
COUNTS_SUFFIX = ".prom"


@dataclass(frozen=True)
class RecordedOutputs:
    """The predictions that a file and its predecessor `FILE.1` hold."""

    probabilities: NDArray[np.float32]
    """predictions `(N, classes)` of the requested model, oldest first"""
    times: list[str]
    """times of the predictions, ISO 8601, UTC"""
    num_other: int
    """number of lines of other models"""
    num_damaged: int
    """number of lines that a crash cut short"""


class OutputRecorder:
    """A writer of one model's predictions; several processes may append to one file."""

    def __init__(self, file: Path, model: Path) -> None:
        """Create the file if it is missing; `InputError` where it cannot be written."""
        self._file, self._model_sha256 = file, hash_file(model, "sha256")
        if file.exists() and not file.is_file():
            raise InputError(f"cannot record in {file}: not a regular file")
        try:
            with file.open("ab"):
                pass
        except OSError as error:
            raise InputError(f"cannot record in {file}: {error.strerror or error}") from error

    def append(self, probabilities: NDArray[np.float32]) -> None:
        """Append `(N, classes)`, which are on disk on return. `RunError` if they cannot be written."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        lines = (
            {"time": now, "model_sha256": self._model_sha256, "probabilities": row}
            for row in probabilities.tolist()
        )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            with FileLock(self._file.with_name(f".{self._file.name}.lock")):
                if self._file.is_file() and self._file.stat().st_size >= MAX_BYTES:
                    self._file.replace(_rotated(self._file))
                with self._file.open("a+b") as record:
                    if record.tell() and os.pread(record.fileno(), 1, record.tell() - 1) != b"\n":
                        text = "\n" + text  # A crash has cut the last line short.
                    record.write(text.encode())
                    record.flush()
                    os.fsync(record.fileno())
                counts = self._file.with_name(f"{self._file.name}{COUNTS_SUFFIX}")
                add_predictions(counts, self._model_sha256[:8], len(probabilities))
        except OSError as error:
            raise RunError(f"cannot record in {self._file}: {error.strerror or error}") from error


def read_outputs(file: Path, model: Path, num_classes: int) -> RecordedOutputs:
    """Read what is recorded of the model. `InputError` where the file is no record of predictions."""
    model_sha256 = hash_file(model, "sha256")
    rows: list[list[float]] = []
    times: list[str] = []
    num_other = num_damaged = 0
    for line in _read_lines(_rotated(file)) + _read_lines(file):
        try:
            entry = json.loads(line)
            time, row = str(entry["time"]), [float(value) for value in entry["probabilities"]]
            is_other = entry["model_sha256"] != model_sha256
        except (ValueError, TypeError, KeyError):
            num_damaged += 1
            continue
        if is_other:
            num_other += 1
        elif len(row) != num_classes or not all(0 <= value <= 1 for value in row):
            num_damaged += 1
        else:
            rows.append(row)
            times.append(time)
    if num_damaged and not rows and not num_other:
        raise InputError(
            f"{file} is no record of predictions; make one with: cifarflow predict --record FILE"
        )
    return RecordedOutputs(np.array(rows, np.float32).reshape(-1, num_classes), times, num_other, num_damaged)


def _rotated(file: Path) -> Path:
    """Return the path to which a full file is renamed."""
    return file.with_name(f"{file.name}.1")


def _read_lines(file: Path) -> list[bytes]:
    try:
        return [line for line in file.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
