"""The talk's network as an ONNX graph optimized for fp32 (docs/onnx.md has what was tried)."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.classifier import Classifier
from models.net import Net
from tasks.onnx.onnx_model import build_onnx_model

Weights = dict[str, NDArray[np.float64]]
IMAGE_SIZE = 32  # for which the kernels and shapes below are laid out
Tensors = dict[str, NDArray[np.float32] | NDArray[np.int64]]


def has_custom_graph(classifier: Classifier) -> bool:
    """Whether this module and int8_graph.py can write it: a `Net` for 32x32 without test-time views."""
    is_net = isinstance(classifier.network, Net) and classifier.image_size == IMAGE_SIZE
    return is_net and classifier.tta == "none"


def build_fp32_graph(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """The classifier of a `Net`, uint8 images `(N, 32, 32, 3)` to probabilities `(N, classes)`.

    An equivalent graph, up to rounding:

    - Normalization is part of the first convolution.
    - An image stays in the order in which it is decoded: a 5x5 convolution over three channels is a 5x15 one
      with stride 3 over rows of interleaved RGB. Nothing is transposed.
    - The first convolution computes two neighboring rows at once, as 12 channels of a 6x15 kernel with a
      stride of two rows: with 6 channels most of a vector register of 16 floats would be idle. The pool is
      then a maximum over two columns, and over the two halves of the channels.
    - Four channels of zeros make it 16: ONNX Runtime pools whole registers in the layout in which it
      convolves, and half as much has to be converted back to ONNX's layout.
    - ReLU follows the convolution directly, where ONNX Runtime fuses it.
    """
    network = classifier.network
    if not isinstance(network, Net):
        raise TypeError(f"no fp32 graph for {type(network).__name__}; only Net is supported")
    weights = fold_normalization(classifier)
    kernel, bias = _interleave_channels(_stack_two_rows(weights["conv1.weight"])), weights["conv1.bias"]
    tensors: Tensors = {
        "rows": np.array([0, 1, 32, 96]),  # 0: as it is
        "channels": np.array([1]),  # the axis of Slice
        "start": np.array([0]),
        "half": np.array([6]),
        "whole": np.array([12]),
        "conv1.weight": np.pad(kernel, ((0, 4), *3 * [(0, 0)])).astype(np.float32),
        "conv1.bias": np.pad(np.tile(bias, 2), (0, 4)).astype(np.float32),
        "conv2.weight": weights["conv2.weight"].astype(np.float32),
        "conv2.bias": weights["conv2.bias"].astype(np.float32),
        **build_dense_tensors(weights),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        node("Reshape", ["float", "rows"], ["pixels"]),
        node("Conv", ["pixels", "conv1.weight", "conv1.bias"], ["c1"], kernel_shape=[6, 15], strides=[2, 3]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[1, 2], strides=[1, 2]),
        node("Slice", ["p1", "start", "half", "channels"], ["upper"]),
        node("Slice", ["p1", "half", "whole", "channels"], ["lower"]),
        node("Max", ["upper", "lower"], ["x1"]),
        node("Conv", ["x1", "conv2.weight", "conv2.bias"], ["c2"], kernel_shape=[5, 5]),
        node("Relu", ["c2"], ["r2"]),
        node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p2"], ["features"], axis=1),
        *build_dense_nodes(),
    ]
    return build_onnx_model(nodes, tensors, opset, IMAGE_SIZE)


def fold_normalization(classifier: Classifier) -> Weights:
    """The weights of a `Net` with normalization in the first convolution, which takes values of 0 to 255.

    That convolution has no padding, so this is exact.
    """
    weights = {name: tensor.double().numpy() for name, tensor in classifier.network.state_dict().items()}
    mean, std = (x.double().numpy().reshape(3, 1, 1) for x in (classifier.mean, classifier.std))
    kernel = weights["conv1.weight"]
    weights["conv1.bias"] = weights["conv1.bias"] - (kernel * (mean / std)).sum((1, 2, 3))
    weights["conv1.weight"] = kernel / (255 * std)
    return weights


def build_dense_tensors(weights: Weights) -> Tensors:
    """The dense layers' weights, stored as `Gemm` multiplies them: `(in, out)`."""
    tensors: Tensors = {}
    for name in ("fc1", "fc2", "fc3"):
        tensors[f"{name}.weight"] = np.ascontiguousarray(weights[f"{name}.weight"].T, dtype=np.float32)
        tensors[f"{name}.bias"] = weights[f"{name}.bias"].astype(np.float32)
    return tensors


def build_dense_nodes() -> list[onnx.NodeProto]:
    """From `features` to `probabilities`."""
    node = helper.make_node
    return [
        node("Gemm", ["features", "fc1.weight", "fc1.bias"], ["f1"]),
        node("Relu", ["f1"], ["a1"]),
        node("Gemm", ["a1", "fc2.weight", "fc2.bias"], ["f2"]),
        node("Relu", ["f2"], ["a2"]),
        node("Gemm", ["a2", "fc3.weight", "fc3.bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]


def _stack_two_rows(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(O, C, H, W)` as `(2 O, C, H + 1, W)`: first for a row, then for the one below it."""
    upper = np.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0)))
    lower = np.pad(kernel, ((0, 0), (0, 0), (1, 0), (0, 0)))
    return np.concatenate([upper, lower])


def _interleave_channels(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(O, C, H, W)` as `(O, 1, H, W C)`, for rows in which a pixel's channels are interleaved."""
    outputs, channels, height, width = kernel.shape
    return kernel.transpose(0, 2, 3, 1).reshape(outputs, 1, height, width * channels)
