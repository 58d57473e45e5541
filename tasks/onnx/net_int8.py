"""Build the talk's network as an ONNX graph that is optimized for int8.

ONNX Runtime's int8 convolution keeps channels last, and is fast with a multiple of four input channels and 16
or more output channels. The network has 3, 6 and 16 channels. So:

- Four pixels of three colors become one pixel of twelve channels. The first convolution computes four
  neighboring columns of two neighboring rows at once, as 48 channels, with a stride of two rows and one such
  pixel. The pool is then a maximum over four groups of twelve channels, which are two pixels of six.
  `MaxPool` computes it with the groups side by side in a row: `Max` of uint8 needs ONNX Runtime 1.24.
- The second convolution takes the twelve channels of two pixels as they are, and computes two columns at
  once, as 32 channels.
- The channels stay last from the image to the features. `Transpose` only says so in ONNX's terms, and is
  optimized away when ONNX Runtime loads the file.
- Normalization is part of the first convolution, so the image itself, which is uint8, is its input. The
  temperature is part of the last layer.

docs/onnx.md lists the variants that were tried.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.classifier import Classifier
from tasks.onnx.net_fp32 import (
    Tensors,
    build_dense_nodes,
    build_dense_tensors,
    build_onnx_model,
    fold_constants,
)

# Each value holds the same numbers as its key in another order, or the maximum of some of them. Both tensors
# get one scale, so that no conversion is needed between them.
SHARED_RANGES = {"r1": "x2", "r2": "features"}


def build_int8_graph(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """Build the graph of a `Net` that `tasks.onnx.qdq` then quantizes; it still computes in floats.

    Images `(N, 32, 32, 3)`, 0 to 255, become the classifier's probabilities `(N, classes)`, up to rounding.
    """
    weights = fold_constants(classifier)
    kernel, bias = weights["conv1.weight"], weights["conv1.bias"]
    # The pool compares column 0 with 1 and column 2 with 3, in both rows. What it compares has to stand in
    # different groups of twelve channels, hence the order of the columns.
    shifted = [
        _shift_kernel(kernel, row, column, rows=2, columns=4) for row in (0, 1) for column in (0, 2, 1, 3)
    ]
    kernel2 = weights["conv2.weight"]
    shifted2 = [_shift_kernel(kernel2, 0, column, rows=1, columns=2) for column in (0, 1)]
    # The features arrive with channels last, so the first dense layer changes its order, too.
    channels_last = weights["fc1.weight"].reshape(120, 16, 5, 5).transpose(0, 2, 3, 1).reshape(120, 400)
    tensors: Tensors = {
        "fours": np.array([0, 32, 8, 12]),  # In `Reshape`, 0 keeps a dimension: the batch.
        "groups": np.array([0, 14, 28, 12]),
        "columns": np.array([0, 10, 10, 16]),
        "conv1.weight": _width_to_channels(np.concatenate(shifted), 4),
        "conv1.bias": np.tile(bias, 8).astype(np.float32),
        "conv2.weight": _width_to_channels(np.concatenate(shifted2), 2),
        "conv2.bias": np.tile(weights["conv2.bias"], 2).astype(np.float32),
        **build_dense_tensors(weights | {"fc1.weight": channels_last}),
    }
    # ONNX's convolutions and pools take channels second, while `Reshape` regroups channels that are last.
    last, second = [0, 2, 3, 1], [0, 3, 1, 2]
    node = helper.make_node
    nodes = [
        # Four pixels of three colors become one pixel of twelve channels.
        node("Reshape", ["images", "fours"], ["pixels"]),
        node("Transpose", ["pixels"], ["x1"], perm=second),
        node("Conv", ["x1", "conv1.weight", "conv1.bias"], ["c1"], kernel_shape=[6, 2], strides=[2, 1]),
        node("Relu", ["c1"], ["r1"]),
        # The 48 channels become four groups of twelve in a row, over which the pool takes the maximum.
        node("Transpose", ["r1"], ["n1"], perm=last),
        node("Reshape", ["n1", "groups"], ["s1"]),
        node("Transpose", ["s1"], ["t1"], perm=second),
        node("MaxPool", ["t1"], ["x2"], kernel_shape=[1, 4], strides=[1, 4]),
        # The twelve channels are two pixels of six, and the 32 outputs two pixels of 16.
        node("Conv", ["x2", "conv2.weight", "conv2.bias"], ["c2"], kernel_shape=[5, 3]),
        node("Relu", ["c2"], ["r2"]),
        # The 32 channels become two columns of 16 again, as the pool and the dense layer need them.
        node("Transpose", ["r2"], ["n2"], perm=last),
        node("Reshape", ["n2", "columns"], ["s2"]),
        node("Transpose", ["s2"], ["t2"], perm=second),
        node("MaxPool", ["t2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["p2"], ["m2"], perm=last),
        node("Flatten", ["m2"], ["features"], axis=1),
        *build_dense_nodes(),
    ]
    # The quantizer tells the consumers of a tensor apart by their names.
    for each in nodes:
        each.name = each.output[0]
    return build_onnx_model(nodes, tensors, opset, TensorProto.FLOAT)


def _shift_kernel(
    kernel: NDArray[np.float64], row: int, column: int, rows: int, columns: int
) -> NDArray[np.float64]:
    """Pad a kernel `(O, C, H, W)` with zeros to `(O, C, H + rows - 1, W + columns - 1)`.

    The kernel begins at `row` and `column`, so it computes the neighbor that is so many pixels away.
    """
    return np.pad(kernel, ((0, 0), (0, 0), (row, rows - 1 - row), (column, columns - 1 - column)))


def _width_to_channels(kernel: NDArray[np.float64], pixels: int) -> NDArray[np.float32]:
    """Turn a kernel `(O, C, H, W)` into `(O, pixels C, H, W / pixels)`, for groups of neighboring pixels.

    Each group of `pixels` neighbors in a row is one pixel with the channels of all.
    """
    outputs, channels, height, width = kernel.shape
    grouped = kernel.transpose(0, 2, 3, 1).reshape(outputs, height, width // pixels, pixels * channels)
    return np.ascontiguousarray(grouped.transpose(0, 3, 1, 2), dtype=np.float32)
