"""The talk's network as the graph that is fastest in 8 bits (docs/onnx.md has what was tried)."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.classifier import Classifier
from models.net import Net
from tasks.inference.fp32_graph import fold_normalization
from tasks.workspace.errors import InputError


def build_int8_graph(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """The classifier of a `Net`, still in floats: pictures `(N, 32, 32, 3)`, 0 to 255, to `(N, 10)`.

    The same function as the network's, up to rounding, in the form that ONNX Runtime's 8-bit convolution
    likes. That one keeps channels last and is fast where it takes a multiple of four and gives 16 or more:

    - Four pixels of three colors are one of twelve channels. The first convolution computes four
      neighboring columns of two neighboring rows at once, as 48 channels, and moves by two rows and one
      such pixel. The pool is then a maximum over four groups of twelve channels, which are two pixels of six.
    - The second convolution takes them as they are, and computes two columns at once, as 32 channels.
    - The channels stay last from the picture to the features: `Transpose` only says so in ONNX's terms, and
      is gone once ONNX Runtime has loaded the file.
    - Normalization is part of the first convolution, which pads nothing: what is quantized is the picture.
    """
    network = classifier.network
    if not isinstance(network, Net):
        raise InputError(f"an 8-bit graph of {type(network).__name__} is not known here, of Net alone")
    weights = fold_normalization(classifier)
    kernel, bias = weights["conv1.weight"], weights["conv1.bias"]
    moved = [
        _shift_kernel(kernel, row, column, rows=2, columns=4) for row in (0, 1) for column in (0, 2, 1, 3)
    ]  # neighbors that the pool compares, 0 with 1 and 2 with 3, stand in groups of their own

    tensors: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "fours": np.array([0, 32, 8, 12]),  # 0: as it is
        "columns": np.array([0, 10, 10, 16]),
        "conv1.weight": _width_to_channels(np.concatenate(moved), 4),
        "conv1.bias": np.tile(bias, 8).astype(np.float32),
        "conv2.weight": _width_to_channels(
            np.concatenate(
                [_shift_kernel(weights["conv2.weight"], 0, column, rows=1, columns=2) for column in (0, 1)]
            ),
            2,
        ),
        "conv2.bias": np.tile(weights["conv2.bias"], 2).astype(np.float32),
    }
    first = weights["fc1.weight"].reshape(120, 16, 5, 5).transpose(0, 2, 3, 1).reshape(120, 400)
    for name, dense in (("fc1", first), ("fc2", weights["fc2.weight"]), ("fc3", weights["fc3.weight"])):
        tensors[f"{name}.weight"] = np.ascontiguousarray(dense.T, dtype=np.float32)
        tensors[f"{name}.bias"] = weights[f"{name}.bias"].astype(np.float32)

    last, second = [0, 2, 3, 1], [0, 3, 1, 2]  # where the channels go
    node = helper.make_node
    nodes = [
        node("Reshape", ["images", "fours"], ["pixels"]),
        node("Transpose", ["pixels"], ["x1"], perm=second),
        node("Conv", ["x1", "conv1.weight", "conv1.bias"], ["c1"], kernel_shape=[6, 2], strides=[2, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Transpose", ["r1"], ["n1"], perm=last),
        node("Split", ["n1"], ["g1", "g2", "g3", "g4"], axis=3),
        node("Max", ["g1", "g2", "g3", "g4"], ["m1"]),
        node("Transpose", ["m1"], ["x2"], perm=second),
        node("Conv", ["x2", "conv2.weight", "conv2.bias"], ["c2"], kernel_shape=[5, 3]),
        node("Relu", ["c2"], ["r2"]),
        node("Transpose", ["r2"], ["n2"], perm=last),
        node("Reshape", ["n2", "columns"], ["s2"]),
        node("Transpose", ["s2"], ["t2"], perm=second),
        node("MaxPool", ["t2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["p2"], ["m2"], perm=last),
        node("Flatten", ["m2"], ["features"], axis=1),
        node("Gemm", ["features", "fc1.weight", "fc1.bias"], ["f1"]),
        node("Relu", ["f1"], ["a1"]),
        node("Gemm", ["a1", "fc2.weight", "fc2.bias"], ["f2"]),
        node("Relu", ["f2"], ["a2"]),
        node("Gemm", ["a2", "fc3.weight", "fc3.bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    for one in nodes:
        one.name = one.output[0]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    operators = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=operators, ir_version=helper.find_min_ir_version_for(operators)
    )


def _shift_kernel(
    kernel: NDArray[np.float64], row: int, column: int, rows: int, columns: int
) -> NDArray[np.float64]:
    """`(O, C, H, W)` in zeros `(O, C, H + rows - 1, W + columns - 1)`, from that row and column on."""
    return np.pad(kernel, ((0, 0), (0, 0), (row, rows - 1 - row), (column, columns - 1 - column)))


def _width_to_channels(kernel: NDArray[np.float64], pixels: int) -> NDArray[np.float32]:
    """`(O, C, H, W)` as `(O, pixels C, H, W / pixels)`, for so many neighboring pixels as one."""
    outputs, channels, height, width = kernel.shape
    grouped = kernel.transpose(0, 2, 3, 1).reshape(outputs, height, width // pixels, pixels * channels)
    return np.ascontiguousarray(grouped.transpose(0, 3, 1, 2), dtype=np.float32)
