"""Build the equivalent ONNX graphs of the talk's network that were tried (docs/onnx.md).

`benchmarks/export.py` measures them against the exported model, which is `tasks/onnx/net_fp32.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.classifier import Classifier
from tasks.onnx.net_fp32 import Weights, build_onnx_model, fold_constants

Tensors = dict[str, NDArray[Any]]
Layer = tuple[list[onnx.NodeProto], Tensors]
BuildFirst = Callable[[Weights], Layer]
node = helper.make_node


def build_variants(classifier: Classifier) -> Iterator[tuple[str, onnx.ModelProto]]:
    for name, build_first in {
        "normalization folded into the first convolution": _plain,
        "… ReLU after the pool": _relu_after_pool,
        "… 6 channels padded to 16": _padded,
        "… pool as a maximum over four groups of channels": _pool_in_channels,
        "… rows of interleaved colors, nothing transposed": _interleaved_rows,
        "… two columns at once": _two_columns,
        "… two rows at once": _two_rows,
    }.items():
        yield name, _build_network(classifier, build_first)


def _plain(weights: Weights) -> Layer:
    return _convolve_planes(
        weights["conv1.weight"],
        weights["conv1.bias"],
        [node("Relu", ["c1"], ["r1"]), _pool("r1", "x1", 2, 2)],
    )


def _relu_after_pool(weights: Weights) -> Layer:
    return _convolve_planes(
        weights["conv1.weight"],
        weights["conv1.bias"],
        [_pool("c1", "p1", 2, 2), node("Relu", ["p1"], ["x1"])],
    )


def _padded(weights: Weights) -> Layer:
    kernel = np.pad(weights["conv1.weight"], ((0, 10), (0, 0), (0, 0), (0, 0)))
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "x1", 2, 2)]
    return _convolve_planes(kernel, np.pad(weights["conv1.bias"], (0, 10)), after)


def _pool_in_channels(weights: Weights) -> Layer:
    """Replace 5x5 convolution and 2x2 pool by a 6x6 convolution of stride 2 and a maximum of four groups."""
    shifted = [
        np.pad(weights["conv1.weight"], ((0, 0), (0, 0), (y, 1 - y), (x, 1 - x)))
        for y in (0, 1)
        for x in (0, 1)
    ]
    nodes, tensors = _convolve_planes(
        np.concatenate(shifted), np.tile(weights["conv1.bias"], 4), [], strides=[2, 2]
    )
    maximum, shapes = _maximum_over_groups("r1", 4)
    return [*nodes, node("Relu", ["c1"], ["r1"]), *maximum], tensors | shapes


def _interleaved_rows(weights: Weights) -> Layer:
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "x1", 2, 2)]
    return _convolve_rows(weights["conv1.weight"], weights["conv1.bias"], after, strides=[1, 3])


def _two_columns(weights: Weights) -> Layer:
    shifted = [np.pad(weights["conv1.weight"], ((0, 0), (0, 0), (0, 0), (x, 1 - x))) for x in (0, 1)]
    maximum, shapes = _maximum_over_groups("p1", 2)
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "p1", 2, 1), *maximum]
    nodes, tensors = _convolve_rows(
        np.concatenate(shifted), np.tile(weights["conv1.bias"], 2), after, strides=[1, 6]
    )
    return nodes, tensors | shapes


def _two_rows(weights: Weights) -> Layer:
    shifted = [np.pad(weights["conv1.weight"], ((0, 0), (0, 0), (y, 1 - y), (0, 0))) for y in (0, 1)]
    maximum, shapes = _maximum_over_groups("p1", 2)
    after = [node("Relu", ["c1"], ["r1"]), _pool("r1", "p1", 1, 2), *maximum]
    nodes, tensors = _convolve_rows(
        np.concatenate(shifted), np.tile(weights["conv1.bias"], 2), after, strides=[2, 3]
    )
    return nodes, tensors | shapes


def _convolve_planes(
    kernel: NDArray[np.float64],
    bias: NDArray[np.float64],
    after: list[onnx.NodeProto],
    strides: Sequence[int] = (1, 1),
) -> Layer:
    """Build a convolution over images that are transposed to channels first."""
    nodes = [
        node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
        node("Conv", ["pixels", "w1", "b1"], ["c1"], kernel_shape=kernel.shape[2:], strides=strides),
        *after,
    ]
    return nodes, {"w1": kernel.astype(np.float32), "b1": bias.astype(np.float32)}


def _convolve_rows(
    kernel: NDArray[np.float64], bias: NDArray[np.float64], after: list[onnx.NodeProto], strides: list[int]
) -> Layer:
    """Build a convolution over rows of interleaved colors, the order in which images are decoded."""
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


def _pool(source: str, target: str, height: int, width: int) -> onnx.NodeProto:
    return node("MaxPool", [source], [target], kernel_shape=[height, width], strides=[height, width])


def _maximum_over_groups(source: str, groups: int) -> Layer:
    """Build the maximum over `groups` groups of 6 channels of 14 x 14 values."""
    nodes = [
        node("Reshape", [source, "groups"], ["g1"]),
        node("MaxPool", ["g1"], ["m1"], kernel_shape=[groups, 1]),
        node("Reshape", ["m1", "maps"], ["x1"]),
    ]
    return nodes, {"groups": np.array([0, 1, groups, 6 * 14 * 14]), "maps": np.array([0, 6, 14, 14])}


def _build_network(classifier: Classifier, build_first: BuildFirst) -> onnx.ModelProto:
    weights = fold_constants(classifier)
    nodes, tensors = build_first(weights)
    channels = tensors["w1"].shape[0] if build_first is _padded else 6
    kernel = np.pad(weights["conv2.weight"], ((0, 0), (0, channels - 6), (0, 0), (0, 0)))
    tensors |= {"w2": kernel, "b2": weights["conv2.bias"]}
    relu_last = build_first is _relu_after_pool
    nodes += [
        node("Conv", ["x1", "w2", "b2"], ["c2"], kernel_shape=[5, 5]),
        *(
            [_pool("c2", "p2", 2, 2), node("Relu", ["p2"], ["x2"])]
            if relu_last
            else [node("Relu", ["c2"], ["r2"]), _pool("r2", "x2", 2, 2)]
        ),
        node("Flatten", ["x2"], ["a0"], axis=1),
    ]
    for i, activation in enumerate(("a1", "a2", "logits"), start=1):
        tensors |= {f"w{i}d": weights[f"fc{i}.weight"], f"b{i}d": weights[f"fc{i}.bias"]}
        output = activation if i == 3 else f"f{i}"
        nodes.append(node("Gemm", [f"a{i - 1}", f"w{i}d", f"b{i}d"], [output], transB=1))
        if i < 3:
            nodes.append(node("Relu", [output], [activation]))
    nodes.append(node("Softmax", ["logits"], ["probabilities"], axis=1))
    return build_onnx_model(nodes, {name: _cast(array) for name, array in tensors.items()}, 13)


def _cast(array: NDArray[Any]) -> NDArray[Any]:
    """Cast weights to float32 and shapes to int64, the types that ONNX requires."""
    return np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind == "i" else np.float32)
