"""Build the talk's network as an ONNX graph that is optimized for fp32.

docs/onnx.md lists the variants that were tried.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.classifier import Classifier
from models.net import Net
from tasks.workspace.errors import InputError

Weights = dict[str, NDArray[np.float64]]
MIN_OPSET = 13  # This one brought Softmax over one axis, and DequantizeLinear with one scale per channel.
IMAGE_SIZE = 32  # The kernels and shapes below are laid out for this size only.
Tensors = dict[str, NDArray[np.float32] | NDArray[np.int64]]


def has_fast_graph(classifier: Classifier) -> bool:
    """Return whether this module and net_int8.py can build a graph of the classifier.

    They can for a `Net` for images of 32x32 without test-time augmentation.
    """
    is_net = isinstance(classifier.network, Net) and classifier.image_size == IMAGE_SIZE
    return is_net and classifier.tta == "none"


def resolve_opset(opset: int | Literal["auto"]) -> int:
    """Return the operator set for graphs of the talk's network; `InputError` where they do not support it."""
    if opset == "auto":
        return MIN_OPSET
    highest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= highest:
        raise InputError(f"export.opset {opset} is not supported; {MIN_OPSET} to {highest} are")
    return opset


def build_fp32_graph(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """Build the graph of a `Net`, from uint8 images `(N, 32, 32, 3)` to probabilities `(N, classes)`.

    The graph computes what the classifier computes, up to rounding, but in a form that is faster:

    - Normalization is part of the first convolution, and the temperature part of the last layer.
    - An image stays in the order in which it is decoded: a 5x5 convolution over three channels is a 5x15 one
      with stride 3 over rows of interleaved RGB. Nothing is transposed.
    - The first convolution computes two neighboring rows at once, as 12 channels of a 6x15 kernel with a
      stride of two rows: with 6 channels most of a vector register of 16 floats would be idle. The pool is
      then a maximum over two columns, and over the two halves of the channels.
    - Four channels of zeros make 12 channels 16: ONNX Runtime pools whole registers in the layout in which it
      convolves, and half as much has to be converted back to ONNX's layout.
    - ReLU follows the convolution directly, where ONNX Runtime fuses it.
    """
    weights = fold_constants(classifier)
    # The kernel gets a channel for each of two rows and reads the colors where they stand in memory.
    kernel, bias = _interleave_channels(_stack_two_rows(weights["conv1.weight"])), weights["conv1.bias"]
    tensors: Tensors = {
        "rows": np.array([0, 1, 32, 96]),  # In `Reshape`, 0 keeps a dimension: the batch.
        "channels": np.array([1]),  # `Slice` cuts along this axis.
        "start": np.array([0]),
        # Channels 0 to 5 are the upper of two rows, 6 to 11 the lower; the slices leave the padding out.
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
        # The image's three values per pixel stay side by side: one row of 96 values for 32 pixels.
        node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        node("Reshape", ["float", "rows"], ["pixels"]),
        # A stride of 3 values is one pixel; a stride of two rows, since both are computed at once.
        node("Conv", ["pixels", "conv1.weight", "conv1.bias"], ["c1"], kernel_shape=[6, 15], strides=[2, 3]),
        node("Relu", ["c1"], ["r1"]),
        # The 2x2 pool is first a maximum of two columns, then of the two rows, which are channels here.
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[1, 2], strides=[1, 2]),
        node("Slice", ["p1", "start", "half", "channels"], ["upper"]),
        node("Slice", ["p1", "half", "whole", "channels"], ["lower"]),
        node("Max", ["upper", "lower"], ["x1"]),
        # From here on the graph is the network's own.
        node("Conv", ["x1", "conv2.weight", "conv2.bias"], ["c2"], kernel_shape=[5, 5]),
        node("Relu", ["c2"], ["r2"]),
        node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p2"], ["features"], axis=1),
        *build_dense_nodes(),
    ]
    return build_onnx_model(nodes, tensors, opset)


def fold_constants(classifier: Classifier) -> Weights:
    """Return the weights of a `Net` that normalizes and calibrates without computing any more.

    Its first convolution takes pixels of 0 to 255 and normalizes them. This is exact, since that convolution
    has no padding: a border of zeros would be normalized, too. Its last layer gives logits that are divided
    by the temperature.
    """
    weights = {name: tensor.double().numpy() for name, tensor in classifier.network.state_dict().items()}
    mean, std = (x.double().numpy().reshape(3, 1, 1) for x in (classifier.mean, classifier.std))
    kernel = weights["conv1.weight"]
    # w * (x / 255 - mean) / std + b = w / (255 * std) * x + (b - w * mean / std), summed over a kernel.
    weights["conv1.bias"] = weights["conv1.bias"] - (kernel * (mean / std)).sum((1, 2, 3))
    weights["conv1.weight"] = kernel / (255 * std)
    for name in ("fc3.weight", "fc3.bias"):
        weights[name] = weights[name] / classifier.temperature
    return weights


def build_dense_tensors(weights: Weights) -> Tensors:
    """Return the dense layers' weights `(in, out)`, in which order `Gemm` multiplies them, and biases."""
    tensors: Tensors = {}
    for name in ("fc1", "fc2", "fc3"):
        tensors[f"{name}.weight"] = np.ascontiguousarray(weights[f"{name}.weight"].T, dtype=np.float32)
        tensors[f"{name}.bias"] = weights[f"{name}.bias"].astype(np.float32)
    return tensors


def build_dense_nodes() -> list[onnx.NodeProto]:
    """Return the nodes of the dense layers, which lead from `features` to `probabilities`."""
    node = helper.make_node
    return [
        node("Gemm", ["features", "fc1.weight", "fc1.bias"], ["f1"]),
        node("Relu", ["f1"], ["a1"]),
        node("Gemm", ["a1", "fc2.weight", "fc2.bias"], ["f2"]),
        node("Relu", ["f2"], ["a2"]),
        node("Gemm", ["a2", "fc3.weight", "fc3.bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]


def build_onnx_model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, NDArray[np.float32] | NDArray[np.int64]],
    opset: int,
    image_type: int = TensorProto.UINT8,
) -> onnx.ModelProto:
    """Build a model of the nodes, from `images` `(N, 32, 32, 3)` to `probabilities` `(N, classes)`.

    `tensors` has to hold the bias of the last layer, `fc3.bias`: one value per class.
    """
    num_classes = len(tensors["fc3.bias"])
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", image_type, ["N", IMAGE_SIZE, IMAGE_SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", num_classes])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opset_imports = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=opset_imports, ir_version=helper.find_min_ir_version_for(opset_imports)
    )


def _stack_two_rows(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a kernel `(O, C, H, W)` into `(2 O, C, H + 1, W)`, for a row and for the row below it at once."""
    # A row of zeros below or above the kernel moves it by one row within a window of H + 1 rows.
    upper = np.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0)))
    lower = np.pad(kernel, ((0, 0), (0, 0), (1, 0), (0, 0)))
    return np.concatenate([upper, lower])


def _interleave_channels(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a kernel `(O, C, H, W)` into `(O, 1, H, W C)`, for rows of interleaved channels (RGBRGB...)."""
    outputs, channels, height, width = kernel.shape
    return kernel.transpose(0, 2, 3, 1).reshape(outputs, 1, height, width * channels)
