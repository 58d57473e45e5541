from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tasks.benchmarking.backends import (
    ALL_BACKENDS,
    Backend,
    BackendUnavailableError,
    ModelPaths,
    expand_backends,
)
from tasks.inference.onnx_classifier import CPU, predict_in_batches
from tasks.params import Params
from tasks.params.types import BackendName
from tasks.training.torch_settings import num_threads
from tasks.workspace.errors import RunError
from tasks.workspace.weights import load_classifier

pytestmark = pytest.mark.slow

ALL = [name for name in ALL_BACKENDS if "openvino" not in name or find_spec("openvino")]


@pytest.fixture(scope="module")
def models(small_run: Params) -> ModelPaths:
    paths = small_run.paths
    return ModelPaths(paths.weights, paths.onnx_model, paths.int8_model)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("name", ALL)
def test_backend_agrees_with_pytorch(models: ModelPaths, name: str, batch_size: int, threads: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)
    classifier, _ = load_classifier(Path(models.weights))
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    with num_threads():
        actual = expand_backends([name], [CPU])[0].load(models, threads)(images)
    assert actual.shape == (batch_size, 10)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() < (1e-5 if name.endswith("fp32") else 0.1)


def test_backend_name_has_framework_precision_and_provider() -> None:
    backends = expand_backends(
        ["onnxruntime-fp32", "pytorch-fp32", "openvino-int8"], [CPU, "CUDAExecutionProvider"]
    )
    assert [backend.name for backend in backends] == [
        "onnxruntime-fp32",
        "onnxruntime-fp32-cuda",
        "pytorch-fp32",
        "pytorch-fp32-cuda",
        "openvino-int8",
    ]
    assert [backend.on_cpu for backend in backends] == [True, False, True, False, True]


def test_load_with_missing_provider_raises_unavailable(models: ModelPaths) -> None:
    with pytest.raises(BackendUnavailableError, match=r"^TensorrtExecutionProvider is not part of .*CPU\w+$"):
        Backend("onnxruntime", "fp32", "TensorrtExecutionProvider").load(models, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_load_with_missing_device_raises_unavailable(models: ModelPaths) -> None:
    with pytest.raises(BackendUnavailableError, match="PyTorch finds no CUDA device"):
        Backend("pytorch", "fp32", "cuda").load(models, 1)


def test_load_with_missing_package_raises_unavailable(
    models: ModelPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.benchmarking.backends.find_spec", lambda _: None)
    with pytest.raises(BackendUnavailableError, match="OpenVINO is not installed: pip install"):
        Backend("openvino", "fp32", "CPU").load(models, 1)


@pytest.mark.parametrize("name", [name for name in ALL if "onnxruntime" in name or "openvino" in name])
@pytest.mark.parametrize("share", [0, 50, 99])
def test_load_of_truncated_file_raises_one_line(
    models: ModelPaths, tmp_path: Path, name: str, share: int
) -> None:
    (backend,) = expand_backends([name], [CPU])
    content = backend.select_file(models).read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(content[: len(content) * share // 100])
    with pytest.raises(RunError, match=r"cut\.onnx cannot be loaded by (ONNX Runtime|OpenVINO)") as caught:
        backend.load(ModelPaths(models.weights, str(cut), str(cut)), 1)
    assert type(caught.value) is RunError
    assert len(str(caught.value).splitlines()) == 1


def test_load_of_foreign_model_raises_one_line(models: ModelPaths, tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RunError, match=r"other\.onnx is not a cifarflow model: expected input im") as caught:
        Backend("onnxruntime", "fp32", CPU).load(
            ModelPaths(models.weights, str(tmp_path / "other.onnx"), models.int8), 1
        )
    assert type(caught.value) is RunError
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_predicts_the_same_in_every_way_it_is_run(models: ModelPaths) -> None:
    """Static shapes where it was prepared for the batch size, dynamic ones, many requests at once."""
    images = np.random.default_rng(1).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    backend = Backend("openvino", "fp32", "CPU")
    expected = Backend("onnxruntime", "fp32", CPU).load(models, 1)(images)
    predict = backend.load(models, 2, [1, 8])
    for size in (1, 8, 7):
        assert (
            np.abs(predict_in_batches(predict, images[: 2 * size], size) - expected[: 2 * size]).max() < 1e-5
        )
    offline = backend.load_offline(models)
    assert offline is not None
    assert offline.requests >= 1
    results = offline([images[start : start + 8] for start in range(0, 48, 8)])
    assert np.abs(np.concatenate(results) - expected).max() < 1e-5


def test_all_backends_are_those_of_the_parameters() -> None:
    assert get_args(BackendName) == ALL_BACKENDS


def test_other_engines_have_no_mode_for_many_requests(models: ModelPaths) -> None:
    assert Backend("onnxruntime", "fp32", CPU).load_offline(models) is None
