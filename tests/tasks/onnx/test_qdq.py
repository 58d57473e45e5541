"""The int8 file as the stage `quantize` writes it: what it computes, and in which type."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

from models.classifier import Classifier
from models.net import Net
from tasks.inference.onnx_classifier import Images, load_model
from tasks.onnx.graph import torch_onnx_export
from tasks.onnx.net_int8 import build_int8_graph
from tasks.onnx.qdq import Calibration, quantize_custom_graph, quantize_static_qdq
from tasks.params import Params
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier


@pytest.fixture(scope="module")
def model(small_run: Params) -> Path:
    return Path(small_run.paths.int8_model)


@pytest.fixture(scope="module")
def images(small_run: Params) -> Images:
    return np.asarray(load_splits(Path(small_run.paths.splits)).test.images.numpy())


@pytest.fixture(scope="module")
def classifier(small_run: Params) -> Classifier:
    return load_classifier(Path(small_run.paths.weights))[0]


def read_tensors(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def compute_in_integers(file: Path, images: Images) -> NDArray[np.float64]:
    """What the file says, computed by NumPy in integers; logits `(N, 10)`."""
    tensors = {name: np.asarray(tensor) for name, tensor in read_tensors(onnx.load(file)).items()}

    def layer(x: NDArray[np.uint8], name: str, source: str, target: str = "") -> NDArray[np.generic]:
        weight = tensors[f"{name}.weight_quantized"].astype(np.int64)
        sums = x.astype(np.int64) @ weight + tensors[f"{name}.bias_quantized"]
        scale = tensors[f"{name}.weight_scale"] * tensors[f"{source}_scale"]
        if not target:
            return np.asarray(sums * scale)
        return np.clip(np.rint(sums * (scale / tensors[f"{target}_scale"])), 0, 255).astype(np.uint8)

    def convolution(
        x: NDArray[np.uint8], name: str, source: str, target: str, step: int
    ) -> NDArray[np.uint8]:
        weight = tensors[f"{name}.weight_quantized"]
        outputs, _, height, width = weight.shape
        windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))[:, ::step]
        tensors[f"{name}.weight_quantized"] = weight.reshape(outputs, -1).T
        return layer(windows.reshape(*windows.shape[:3], -1), name, source, target).astype(np.uint8)

    x = convolution(images.reshape(-1, 32, 8, 12), "conv1", "x1", "r1", 2)
    x = x.reshape(*x.shape[:3], 4, 12).max(3)
    x = convolution(x, "conv2", "x2", "r2", 1).reshape(-1, 5, 2, 5, 2, 16).max((2, 4))
    x = layer(x.reshape(len(x), 400), "fc1", "features", "a1").astype(np.uint8)
    return layer(layer(x, "fc2", "a1", "a2").astype(np.uint8), "fc3", "a2").astype(np.float64)


def test_int8_model_equals_integer_arithmetic(model: Path, images: Images) -> None:
    logits = compute_in_integers(model, images)
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    actual = load_model(model).predict_proba(images)
    # A sum that lies between two steps may be rounded to either: of 500 images, to the other one for a few.
    differences = np.abs(actual - expected).max(1)
    assert np.median(differences) < 1e-6
    assert differences.max() < 0.05
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.99


def test_int8_model_is_close_to_fp32(small_run: Params, model: Path, images: Images) -> None:
    actual, expected = (
        load_model(file).predict_proba(images) for file in (model, Path(small_run.paths.onnx_model))
    )
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert np.abs(actual - expected).mean() < 0.02


def test_int8_model_quantizes_the_image_by_identity(model: Path) -> None:
    loaded = onnx.load(model)
    (image_input,) = loaded.graph.input
    assert image_input.type.tensor_type.elem_type == TensorProto.UINT8
    tensors = read_tensors(loaded)
    first = next(
        node for node in loaded.graph.node if node.op_type == "DequantizeLinear" and node.input[0] == "x1"
    )
    assert [tensors[name].item() for name in first.input[1:]] == [1, 0]
    operators = Counter(node.op_type for node in loaded.graph.node)
    assert operators["QuantizeLinear"] == 4  # behind each layer but the last
    assert "Cast" not in operators


def test_int8_model_has_operators_that_old_runtimes_have_for_uint8(model: Path) -> None:
    """`Max` of uint8, for one, came with ONNX Runtime 1.24; test_old_runtimes.py tries such a runtime."""
    operators = {node.op_type for node in onnx.load(model).graph.node}
    assert operators == {
        *("QuantizeLinear", "DequantizeLinear", "Conv", "Gemm", "Softmax"),  # in floats, as it says
        *("Transpose", "Reshape", "Flatten", "MaxPool"),  # which are given uint8
    }


def test_onnx_runtime_keeps_int8_model_in_integers(model: Path, tmp_path: Path) -> None:
    """Nothing between the image and Softmax is a float, or moved to another layout: else it is slow."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # such a file is for this machine, the runtime warns
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators == {
        "QLinearConv": 2,
        "QGemm": 3,
        "NhwcMaxPool": 2,
        "Reshape": operators["Reshape"],  # which costs nothing, as Flatten
        "Flatten": 1,
        "Softmax": 1,
    }


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_of_7_bits_cannot_saturate(classifier: Classifier, images: Images, bits: int) -> None:
    """x86 without VNNI adds two products of a uint8 and an int8 in 16 bits, and saturates."""
    calibration = Calibration(images[:100], "minmax", 99.99)
    quantized = read_tensors(quantize_custom_graph(build_int8_graph(classifier, 13), calibration, bits))
    weights = [tensor.astype(int) for name, tensor in quantized.items() if name.endswith("weight_quantized")]
    assert len(weights) == 5
    largest = max(np.abs(weight).max() for weight in weights)
    assert largest == 2 ** (bits - 1) - (bits == 8)
    assert (2 * 255 * largest < 2**15) == (bits == 7)


def test_minmax_ranges_are_the_largest_activations(small_run: Params, classifier: Classifier) -> None:
    """By PyTorch: the largest activation of the calibration images is 255 steps."""
    train = load_splits(Path(small_run.paths.splits)).train.images
    calibration = Calibration(train.numpy(), "minmax", 99.99)
    tensors = read_tensors(quantize_custom_graph(build_int8_graph(classifier, 13), calibration, 7))
    network = classifier.network
    assert isinstance(network, Net)
    with torch.inference_mode():
        first = torch.relu(network.conv1(classifier.normalize(train)))
        second = torch.relu(network.conv2(network.pool(first)))
    scales = {name: float(np.asarray(tensors[f"{name}_scale"])) for name in ("r1", "r2", "x2", "features")}
    assert 255 * scales["r1"] == pytest.approx(first.max().item(), rel=1e-5)
    assert 255 * scales["r2"] == pytest.approx(second.max().item(), rel=1e-5)
    for producer, consumer in (("r1", "x2"), ("r2", "features")):
        assert scales[producer] == scales[consumer]
        assert tensors[f"{producer}_zero_point"] == tensors[f"{consumer}_zero_point"] == 0


def test_quantize_static_qdq_of_another_network(images: Images, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 5, 2), nn.GELU(), nn.Conv2d(32, 32, 5, 2), nn.Flatten(), nn.Linear(800, 10))
    fp32 = torch_onnx_export(Classifier(nn.Sequential(*layers), [0.5] * 3, [0.2] * 3).eval(), 18)
    onnx.save(fp32, tmp_path / "fp32.onnx")
    calibration = Calibration(images[:300], "minmax", 99.99)
    int8 = quantize_static_qdq(tmp_path / "fp32.onnx", calibration, 7)
    onnx.checker.check_model(int8, full_check=True)
    operators = Counter(node.op_type for node in int8.graph.node)
    assert operators["DequantizeLinear"] > 2 * operators["Conv"] == 4
    expected, actual = (
        np.asarray(onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"images": images})[0])
        for each in (fp32, int8)
    )
    assert 0 < np.abs(actual - expected).max() < 0.02
    assert len(int8.SerializeToString()) < 0.4 * len(fp32.SerializeToString())
