"""The talk's network as the ONNX graph that ONNX Runtime runs fastest (docs/onnx.md has what was tried)."""

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.classifier import Classifier
from models.net import Net
from tasks.workspace.errors import InputError

MIN_OPSET = 13  # Softmax over one axis, DequantizeLinear with a scale a channel


def resolve_opset(wanted: int | Literal["auto"]) -> int:
    """The operator set for graphs of the talk's network; `InputError` where they cannot be of that one."""
    if wanted == "auto":
        return MIN_OPSET
    highest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= wanted <= highest:
        raise InputError(f"export.opset {wanted} is not possible, but {MIN_OPSET} to {highest} are")
    return wanted


def build_fp32_graph(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """The classifier of a `Net`, uint8 pictures `(N, 32, 32, 3)` to probabilities `(N, 10)`.

    The same function as the network's, up to rounding, in other words:

    - Normalization is part of the first convolution.
    - A picture stays in the order in which it is decoded: a 5x5 convolution over three channels is a 5x15 one
      over rows of interleaved RGB that moves by three. Nothing is transposed.
    - The first convolution computes two neighboring rows at once, as 12 channels of a 6x15 kernel that moves
      by two rows: with 6 channels most of a vector register of 16 floats would be idle. The pool's maximum is
      then one over two columns, and one over the two halves of the channels.
    - Four channels of zeros make it 16: ONNX Runtime pools whole registers in the order in which it
      convolves, and what it then has to bring into ONNX's order is half as much.
    - ReLU stands at the convolution, where ONNX Runtime fuses it.
    """
    network = classifier.network
    if not isinstance(network, Net):
        raise TypeError(f"a graph of {type(network).__name__} is not known here")
    values = fold_normalization(classifier)
    kernel, bias = values["conv1.weight"], values["conv1.bias"]
    tensors: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "rows": np.array([0, 1, 32, 96]),  # 0: as it is
        "channels": np.array([1]),  # the axis that is cut at
        "start": np.array([0]),
        "half": np.array([6]),
        "whole": np.array([12]),
        "conv1.weight": np.pad(_interleave_channels(_stack_two_rows(kernel)), ((0, 4), *3 * [(0, 0)])).astype(
            np.float32
        ),
        "conv1.bias": np.pad(np.tile(bias, 2), (0, 4)).astype(np.float32),
        "conv2.weight": values["conv2.weight"].astype(np.float32),
        "conv2.bias": values["conv2.bias"].astype(np.float32),
    }
    for name in ("fc1", "fc2", "fc3"):
        tensors[f"{name}.weight"] = np.ascontiguousarray(values[f"{name}.weight"].T, dtype=np.float32)
        tensors[f"{name}.bias"] = values[f"{name}.bias"].astype(np.float32)

    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "rows"], ["pixels"]),
        helper.make_node(
            "Conv", ["pixels", "conv1.weight", "conv1.bias"], ["c1"], kernel_shape=[6, 15], strides=[2, 3]
        ),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[1, 2], strides=[1, 2]),
        helper.make_node("Slice", ["p1", "start", "half", "channels"], ["upper"]),
        helper.make_node("Slice", ["p1", "half", "whole", "channels"], ["lower"]),
        helper.make_node("Max", ["upper", "lower"], ["x1"]),
        helper.make_node("Conv", ["x1", "conv2.weight", "conv2.bias"], ["c2"], kernel_shape=[5, 5]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["features"], axis=1),
        helper.make_node("Gemm", ["features", "fc1.weight", "fc1.bias"], ["f1"]),
        helper.make_node("Relu", ["f1"], ["a1"]),
        helper.make_node("Gemm", ["a1", "fc2.weight", "fc2.bias"], ["f2"]),
        helper.make_node("Relu", ["f2"], ["a2"]),
        helper.make_node("Gemm", ["a2", "fc3.weight", "fc3.bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    operators = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=operators, ir_version=helper.find_min_ir_version_for(operators)
    )


def fold_normalization(classifier: Classifier) -> dict[str, NDArray[np.float64]]:
    """The weights of a `Net` with normalization in the first convolution, which takes values of 0 to 255.

    That convolution pads nothing, so this is exact.
    """
    values = {name: value.double().numpy() for name, value in classifier.network.state_dict().items()}
    mean, std = (x.double().numpy().reshape(3, 1, 1) for x in (classifier.mean, classifier.std))
    kernel = values["conv1.weight"]
    values["conv1.bias"] = values["conv1.bias"] - (kernel * (mean / std)).sum((1, 2, 3))
    values["conv1.weight"] = kernel / (255 * std)
    return values


def _stack_two_rows(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(O, C, H, W)` as `(2 O, C, H + 1, W)`: first for a row, then for the one below it."""
    upper = np.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0)))
    lower = np.pad(kernel, ((0, 0), (0, 0), (1, 0), (0, 0)))
    return np.concatenate([upper, lower])


def _interleave_channels(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(O, C, H, W)` as `(O, 1, H, W C)`, for rows in which a pixel's channels stand side by side."""
    outputs, channels, height, width = kernel.shape
    return kernel.transpose(0, 2, 3, 1).reshape(outputs, 1, height, width * channels)
