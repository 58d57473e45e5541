"""What is recorded is there after kills, among other processes, and for one model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.drift import recorded_outputs
from tasks.drift.recorded_outputs import OutputRecorder, read_outputs
from tasks.workspace.errors import InputError, RunError

OUTPUTS = np.random.default_rng(0).dirichlet(np.ones(3), 5).astype(np.float32)
APPEND = """
import sys
from pathlib import Path
import numpy as np
from tasks.drift.recorded_outputs import OutputRecorder
recorder = OutputRecorder(Path(sys.argv[1]), Path(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    recorder.append(np.eye(3, dtype=np.float32))
    print("appended", flush=True)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"a model")
    return tmp_path / "model.onnx"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "asked.jsonl"


def start_appending(file: Path, model: Path, times: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", APPEND, str(file), str(model), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_outputs_are_read_as_they_were_and_nothing_else_is_stored(file: Path, model: Path) -> None:
    recorder = OutputRecorder(file, model)
    recorder.append(OUTPUTS[:2])
    recorder.append(OUTPUTS[2:])
    found = read_outputs(file, model, 3)
    np.testing.assert_array_equal(found.probabilities, OUTPUTS)
    assert (len(found.times), found.num_other, found.num_damaged) == (5, 0, 0)
    assert json.loads(file.read_text().splitlines()[0]).keys() == {"time", "model_sha256", "probabilities"}


def test_outputs_of_another_model_are_counted_apart(file: Path, model: Path) -> None:
    OutputRecorder(file, model).append(OUTPUTS)
    model.write_bytes(b"another")
    OutputRecorder(file, model).append(OUTPUTS[:1])
    found = read_outputs(file, model, 3)
    assert (len(found.probabilities), found.num_other) == (1, 5)


def test_truncated_line_costs_itself_only(file: Path, model: Path) -> None:
    OutputRecorder(file, model).append(OUTPUTS)
    file.write_bytes(file.read_bytes()[:-7])
    OutputRecorder(file, model).append(OUTPUTS)
    found = read_outputs(file, model, 3)
    assert (len(found.probabilities), found.num_damaged) == (9, 1)


def test_killed_process_and_another_lose_nothing(file: Path, model: Path) -> None:
    """Two append at once; one is killed. What either was told to be on disk is there."""
    with start_appending(file, model, 10**9) as killed, start_appending(file, model, 30) as other:
        assert killed.stdout is not None
        for _ in range(20):
            killed.stdout.readline()
        assert other.wait(60) == 0
        killed.kill()
        acknowledged = 20 + len(killed.stdout.read().splitlines())
    OutputRecorder(file, model).append(OUTPUTS)
    found = read_outputs(file, model, 3)
    assert found.num_damaged <= 1
    assert 0 <= len(found.probabilities) - 5 - 3 * (30 + acknowledged) <= 3


def test_record_is_bounded(file: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_outputs, "MAX_BYTES", 2000)
    recorder = OutputRecorder(file, model)
    for _ in range(20):
        recorder.append(OUTPUTS)
    assert sum(part.stat().st_size for part in file.parent.glob("asked.jsonl*")) < 2 * 3000
    found = read_outputs(file, model, 3)
    assert 5 < len(found.probabilities) < 100
    np.testing.assert_array_equal(found.probabilities[-5:], OUTPUTS)


def test_file_that_is_no_record_or_cannot_be_written_is_one_line(tmp_path: Path, model: Path) -> None:
    (tmp_path / "notes.txt").write_text("no\nrecord\n")
    with pytest.raises(InputError, match=r"notes\.txt is no record of predictions"):
        read_outputs(tmp_path / "notes.txt", model, 3)
    with pytest.raises(InputError, match=r"cannot record in .*: not a regular file"):
        OutputRecorder(tmp_path, model)
    recorder = OutputRecorder(tmp_path / "below.jsonl", model)
    (tmp_path / "below.jsonl").unlink()
    (tmp_path / "below.jsonl").mkdir()
    with pytest.raises(RunError, match=r"cannot record in .*: Is a directory"):
        recorder.append(OUTPUTS)
