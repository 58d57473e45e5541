"""Other ways to write the talk's network in ONNX, each the same function: what was tried (docs/onnx.md).

`benchmarks/export.py` measures them against what ships, which is `tasks/inference/fp32_graph.py`.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.classifier import Classifier
from tasks.inference.fp32_graph import fold_normalization

First = dict[str, NDArray[np.float64]]
Tensors = dict[str, NDArray[np.float32] | NDArray[np.int64]]
node = helper.make_node


def variants(classifier: Classifier) -> Iterator[tuple[str, onnx.ModelProto]]:
    for name, first in {
        "normalization folded into the first convolution": _plain,
        "… ReLU after the pool": _relu_after_pool,
        "… 6 channels padded to 16": _padded,
        "… pool as a maximum over four groups of channels": _pool_in_channels,
        "… rows of interleaved colors, nothing transposed": _interleaved_rows,
        "… two columns at once": _two_columns,
        "… two rows at once": _two_rows,
    }.items():
        yield name, _network(classifier, first)


def _plain(first: First) -> tuple[list[onnx.NodeProto], Tensors]:
    return _pictures(
        first["conv1.weight"], first["conv1.bias"], [node("Relu", ["c1"], ["r1"]), _pool("r1", "x1", 2, 2)]
    )


def _relu_after_pool(first: First) -> tuple[list[onnx.NodeProto], Tensors]:
    return _pictures(
        first["conv1.weight"], first["conv1.bias"], [_pool("c1", "p1", 2, 2), node("Relu", ["p1"], ["x1"])]
    )


def _padded(first: First) -> tuple[list[onnx.NodeProto], Tensors]:
    kernel = np.pad(first["conv1.weight"], ((0, 10), (0, 0), (0, 0), (0, 0)))
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "x1", 2, 2)]
    return _pictures(kernel, np.pad(first["conv1.bias"], (0, 10)), after)


def _pool_in_channels(first: First) -> tuple[list[onnx.NodeProto], Tensors]:
    """A 5x5 convolution and a 2x2 pool are one 6x6 convolution of stride 2 and a maximum over four groups."""
    moved = [
        np.pad(first["conv1.weight"], ((0, 0), (0, 0), (y, 1 - y), (x, 1 - x)))
        for y in (0, 1)
        for x in (0, 1)
    ]
    nodes, tensors = _pictures(np.concatenate(moved), np.tile(first["conv1.bias"], 4), [], strides=[2, 2])
    maximum, shapes = _maximum_over_groups("r1", 4)
    return [*nodes, node("Relu", ["c1"], ["r1"]), *maximum], tensors | shapes


def _interleaved_rows(first: First) -> tuple[list[onnx.NodeProto], Tensors]:
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "x1", 2, 2)]
    return _rows(first["conv1.weight"], first["conv1.bias"], after, strides=[1, 3])


def _two_columns(first: First) -> tuple[list[onnx.NodeProto], Tensors]:
    moved = [np.pad(first["conv1.weight"], ((0, 0), (0, 0), (0, 0), (x, 1 - x))) for x in (0, 1)]
    maximum, shapes = _maximum_over_groups("p1", 2)
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "p1", 2, 1), *maximum]
    nodes, tensors = _rows(np.concatenate(moved), np.tile(first["conv1.bias"], 2), after, strides=[1, 6])
    return nodes, tensors | shapes


def _two_rows(first: First) -> tuple[list[onnx.NodeProto], Tensors]:
    moved = [np.pad(first["conv1.weight"], ((0, 0), (0, 0), (y, 1 - y), (0, 0))) for y in (0, 1)]
    maximum, shapes = _maximum_over_groups("p1", 2)
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "p1", 1, 2), *maximum]
    nodes, tensors = _rows(np.concatenate(moved), np.tile(first["conv1.bias"], 2), after, strides=[2, 3])
    return nodes, tensors | shapes


def _pictures(
    kernel: NDArray[np.float64],
    bias: NDArray[np.float64],
    after: list[onnx.NodeProto],
    strides: tuple = (1, 1),
) -> tuple[list[onnx.NodeProto], Tensors]:
    """A convolution over pictures whose channels were brought to the front."""
    nodes = [
        node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
        node("Conv", ["pixels", "w1", "b1"], ["c1"], kernel_shape=kernel.shape[2:], strides=strides),
        *after,
    ]
    return nodes, {"w1": kernel.astype(np.float32), "b1": bias.astype(np.float32)}


def _rows(
    kernel: NDArray[np.float64], bias: NDArray[np.float64], after: list[onnx.NodeProto], strides: list[int]
) -> tuple[list[onnx.NodeProto], Tensors]:
    """A convolution over rows in which a pixel's colors stand side by side, as they are decoded."""
    outputs, channels, height, width = kernel.shape
    flat = kernel.transpose(0, 2, 3, 1).reshape(outputs, 1, height, width * channels)
    nodes = [
        node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        node("Reshape", ["float", "rows"], ["pixels"]),
        node("Conv", ["pixels", "w1", "b1"], ["c1"], kernel_shape=flat.shape[2:], strides=strides),
        *after,
    ]
    tensors = {"w1": flat.astype(np.float32), "b1": bias.astype(np.float32), "rows": np.array([0, 1, 32, 96])}
    return nodes, tensors


def _pool(taken: str, given: str, height: int, width: int) -> onnx.NodeProto:
    return node("MaxPool", [taken], [given], kernel_shape=[height, width], strides=[height, width])


def _maximum_over_groups(taken: str, groups: int) -> tuple[list[onnx.NodeProto], Tensors]:
    """Of `groups` times 6 channels of 14 x 14."""
    nodes = [
        node("Reshape", [taken, "groups"], ["g1"]),
        node("MaxPool", ["g1"], ["m1"], kernel_shape=[groups, 1]),
        node("Reshape", ["m1", "maps"], ["x1"]),
    ]
    return nodes, {"groups": np.array([0, 1, groups, 6 * 14 * 14]), "maps": np.array([0, 6, 14, 14])}


def _network(classifier: Classifier, first: object) -> onnx.ModelProto:
    values = fold_normalization(classifier)
    nodes, tensors = first(values)
    channels = tensors["w1"].shape[0] if first is _padded else 6
    kernel = np.pad(values["conv2.weight"], ((0, 0), (0, channels - 6), (0, 0), (0, 0)))
    tensors |= {"w2": kernel, "b2": values["conv2.bias"]}
    relu_last = first is _relu_after_pool
    nodes += [
        node("Conv", ["x1", "w2", "b2"], ["c2"], kernel_shape=[5, 5]),
        *(
            [_pool("c2", "p2", 2, 2), node("Relu", ["p2"], ["x2"])]
            if relu_last
            else [node("Relu", ["c2"], ["r2"]), _pool("r2", "x2", 2, 2)]
        ),
        node("Flatten", ["x2"], ["a0"], axis=1),
    ]
    for i, given in enumerate(("a1", "a2", "logits"), start=1):
        tensors |= {f"w{i}d": values[f"fc{i}.weight"], f"b{i}d": values[f"fc{i}.bias"]}
        summed = given if i == 3 else f"f{i}"
        nodes.append(node("Gemm", [f"a{i - 1}", f"w{i}d", f"b{i}d"], [summed], transB=1))
        if i < 3:
            nodes.append(node("Relu", [summed], [given]))
    nodes.append(node("Softmax", ["logits"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(_stored(array), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _stored(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Shapes stay whole numbers, weights become float32."""
    return np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind == "i" else np.float32)
