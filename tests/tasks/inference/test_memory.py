from pathlib import Path

import pytest

from tasks.inference.backends import Backend, ModelPaths
from tasks.inference.memory import measure_rss_mb
from tasks.inference.onnx_classifier import CPU
from tasks.params import Params
from tasks.workspace.errors import RunError

FP32 = Backend("onnxruntime", "fp32", CPU)


def test_measure_rss_mb_is_of_a_process_with_nothing_else(small_run: Params) -> None:
    """PyTorch's libraries alone are several times what ONNX Runtime needs."""
    models = ModelPaths(small_run.paths.weights, small_run.paths.onnx_model, small_run.paths.int8_model)
    lean = measure_rss_mb(FP32, models, threads=1, batch=(8, 32, 32, 3))
    assert 20 < lean < 300
    assert (
        measure_rss_mb(Backend("pytorch", "fp32", "cpu"), models, threads=1, batch=(8, 32, 32, 3)) > 2 * lean
    )


def test_measure_rss_mb_of_failing_process_says_why(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.onnx")
    with pytest.raises(RunError, match=r"^onnxruntime-fp32 failed in a process of its own: .*none\.onnx"):
        measure_rss_mb(FP32, ModelPaths(missing, missing, missing), threads=1, batch=(8, 32, 32, 3))
