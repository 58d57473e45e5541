from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tasks.inference.backends import (
    Backend,
    BackendUnavailableError,
    ModelPaths,
    expand_backends,
    measure_rss_mb,
)
from tasks.inference.onnx_classifier import CPU
from tasks.params import Params
from tasks.workspace.errors import RunError
from tasks.workspace.weights import load_classifier

ALL = ["onnxruntime-fp32", "onnxruntime-int8", "pytorch-fp32", "torchscript-fp32"]
ALL += ["openvino-fp32", "openvino-int8"] if find_spec("openvino") else []
FP32 = Backend("onnxruntime", "fp32", CPU)


@pytest.fixture(scope="module")
def models(small_run: Params) -> ModelPaths:
    paths = small_run.paths
    return ModelPaths(paths.weights, paths.onnx_model, paths.int8_model)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("name", ALL)
def test_gives_pytorchs_probabilities(models: ModelPaths, name: str, batch_size: int, threads: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)
    classifier, _ = load_classifier(Path(models.weights))
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    before = torch.get_num_threads()
    try:
        actual = expand_backends([name], [CPU])[0].load(models, threads)(images)
    finally:
        torch.set_num_threads(before)
    assert actual.shape == (batch_size, 10)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() < (1e-5 if name.endswith("fp32") else 0.1)


def test_names_say_engine_precision_and_provider() -> None:
    found = expand_backends(
        ["onnxruntime-fp32", "pytorch-fp32", "openvino-int8"], [CPU, "CUDAExecutionProvider"]
    )
    assert [engine.name for engine in found] == [
        "onnxruntime-fp32",
        "onnxruntime-fp32-cuda",
        "pytorch-fp32",
        "pytorch-fp32-cuda",
        "openvino-int8",
    ]


def test_a_provider_that_is_not_installed(models: ModelPaths) -> None:
    with pytest.raises(BackendUnavailableError, match=r"^TensorrtExecutionProvider is not part of .*CPU\w+$"):
        Backend("onnxruntime", "fp32", "TensorrtExecutionProvider").load(models, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(models: ModelPaths) -> None:
    with pytest.raises(BackendUnavailableError, match="PyTorch finds no CUDA device"):
        Backend("pytorch", "fp32", "cuda").load(models, 1)


def test_an_engine_that_is_not_installed(models: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.inference.backends.find_spec", lambda _: None)
    with pytest.raises(BackendUnavailableError, match="OpenVINO is not installed: pip install"):
        Backend("openvino", "fp32", "CPU").load(models, 1)


@pytest.mark.parametrize("name", [name for name in ALL if "onnxruntime" in name or "openvino" in name])
@pytest.mark.parametrize("share", [0, 50, 99])
def test_a_truncated_file(models: ModelPaths, tmp_path: Path, name: str, share: int) -> None:
    (engine,) = expand_backends([name], [CPU])
    content = engine.file(models).read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(content[: len(content) * share // 100])
    with pytest.raises(RunError, match=r"cut\.onnx") as caught:
        engine.load(ModelPaths(models.weights, str(cut), str(cut)), 1)
    assert len(str(caught.value).splitlines()) == 1


def test_a_foreign_file(models: ModelPaths, tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RunError, match=r"other\.onnx is another network's") as caught:
        FP32.load(ModelPaths(models.weights, str(tmp_path / "other.onnx"), models.int8), 1)
    assert len(str(caught.value).splitlines()) == 1


def test_memory_is_that_of_a_process_with_nothing_else(models: ModelPaths) -> None:
    """PyTorch's libraries alone are several times what ONNX Runtime needs."""
    lean = measure_rss_mb(FP32, models, threads=1, batch_size=8)
    assert 20 < lean < 300
    assert measure_rss_mb(Backend("pytorch", "fp32", "cpu"), models, threads=1, batch_size=8) > 2 * lean


def test_what_fails_in_a_process_of_its_own_says_why(models: ModelPaths, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^onnxruntime-fp32 failed in a process of its own: .*none\.onnx"):
        measure_rss_mb(FP32, ModelPaths(models.weights, str(tmp_path / "none.onnx"), models.int8), 1, 8)
