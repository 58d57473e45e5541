from pathlib import Path

import numpy as np

from tasks.drift.prediction_counts import add_predictions
from tasks.drift.recorded_outputs import OutputRecorder

HEAD = (
    "# HELP cifarflow_predictions_total predictions that were recorded\n"
    "# TYPE cifarflow_predictions_total counter\n"
)


def test_counts_of_each_model_only_grow(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl.prom"
    add_predictions(file, "0a1b2c3d", 3)
    add_predictions(file, "ffffffff", 1)
    add_predictions(file, "0a1b2c3d", 4)
    assert file.read_text() == (
        f'{HEAD}cifarflow_predictions_total{{model="0a1b2c3d"}} 7\n'
        'cifarflow_predictions_total{model="ffffffff"} 1\n'
    )


def test_damaged_file_starts_again(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl.prom"
    file.write_bytes(b"\xff\x00cifarflow_predictions_total{model=")
    add_predictions(file, "0a1b2c3d", 2)
    assert file.read_text() == f'{HEAD}cifarflow_predictions_total{{model="0a1b2c3d"}} 2\n'


def test_recorded_predictions_are_counted(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"a model")
    for count in (2, 3):
        OutputRecorder(tmp_path / "asked.jsonl", model).append(np.full((count, 4), 0.25, np.float32))
    assert (tmp_path / "asked.jsonl.prom").read_text().endswith('{model="97ff8a35"} 5\n'), "across processes"
