"""Quantize models to int8 with ONNX Runtime's own library.

Static quantization in QDQ form puts a `QuantizeLinear` and a `DequantizeLinear` around each operator, which
ONNX Runtime then replaces with an operator on integers. Activations become uint8, and weights int8 with one
scale per channel.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator

from models.classifier import Classifier
from tasks.inference.onnx_classifier import Images
from tasks.onnx.net_fp32 import has_fast_graph, resolve_opset
from tasks.onnx.net_int8 import SHARED_RANGES, build_int8_graph

BATCH_SIZE = 250
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
QUANTIZED_OPS = ["Conv", "Gemm", "Relu"]  # These compute; the operators between them only move and compare.


@dataclass(frozen=True)
class Calibration:
    """The images and the method by which the ranges are measured."""

    images: Images
    method: str
    """a key of `METHODS`"""
    percentile: float
    """the percentage of an activation's values that its range covers, for the method `percentile` alone"""


def sample_images(images: Images, count: int, seed: int) -> Images:
    """Return `count` of the images, or all where there are fewer; the same ones on every machine."""
    # RandomState is the generator whose stream NumPy promises never to change (NEP 19).
    chosen = np.random.RandomState(seed).permutation(len(images))[:count]
    return images[np.sort(chosen)]


def quantize_graph(
    classifier: Classifier,
    onnx_model: Path,
    opset: int | Literal["auto"],
    calibration: Calibration,
    weight_bits: int,
) -> onnx.ModelProto:
    """Quantize the classifier, which was exported as `onnx_model`.

    A network with a hand-made graph for int8 gets that one, which is fast in int8. Of any other network the
    convolutions and dense layers of `onnx_model` are quantized in place.
    """
    if has_fast_graph(classifier):
        graph = build_int8_graph(classifier, resolve_opset(opset))
        model = quantize_custom_graph(graph, calibration, weight_bits)
    else:
        model = quantize_static_qdq(onnx_model, calibration, weight_bits)
    model.producer_version = ""  # The library's version would change the bytes of the file.
    return model


def quantize_custom_graph(
    model: onnx.ModelProto, calibration: Calibration, weight_bits: int
) -> onnx.ModelProto:
    """Quantize a graph of `build_int8_graph`, so that all but the final Softmax works on integers."""
    ranges = measure_ranges(model, calibration, QUANTIZED_OPS)
    # Tensors of the same values get one range, and so one scale: then no conversion between them is needed.
    for producer, consumer in SHARED_RANGES.items():
        ranges[producer] = ranges[consumer]
    # With scale 1 and zero point 0 a quantized value of the image is the pixel itself.
    identity = {"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        # Each output channel of a convolution has weights of its own size, so it gets a scale of its own.
        per_channel=True,
        # x86 CPUs without VNNI add two products in 16 bits, and saturate unless weights have 7 bits.
        reduce_range=weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],  # Both lists empty means all nodes of the given types.
        nodes_to_exclude=[],
        op_types_to_quantize=QUANTIZED_OPS,
        extra_options={
            "TensorQuantOverrides": {"x1": [identity]},  # The image is uint8 already.
            # `build_dense_tensors` stores weights as (in, out), so the channels of `Gemm` are in axis 1.
            "QDQOpTypePerChannelSupportToAxis": {"Gemm": 1},
        },
    )
    quantizer.quantize_model()
    # The quantizer appends its nodes at the end, but ONNX requires a node after those that it takes from.
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _remove_redundant_qdq(quantized.graph)
    return quantized


def quantize_static_qdq(onnx_model: Path, calibration: Calibration, weight_bits: int) -> onnx.ModelProto:
    """Quantize the convolutions and dense layers of any exported model with `quantize_static`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        _drop_advice(),
    ):
        int8_model = Path(folder, "int8.onnx")
        quantize_static(
            onnx_model,
            int8_model,
            CalibrationReader(calibration.images),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            reduce_range=weight_bits == 7,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[calibration.method],
            extra_options={"CalibTensorRangeSymmetric": False, "CalibPercentile": calibration.percentile},
        )
        return onnx.load(int8_model)


@contextlib.contextmanager
def _drop_advice() -> Iterator[None]:
    """Suppress the library's advice to pre-process the model: the stage `export` has done that."""

    def is_no_advice(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    logging.getLogger().addFilter(is_no_advice)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_no_advice)


def _remove_redundant_qdq(graph: onnx.GraphProto) -> None:
    """Keep integers between the layers, where values are only moved and compared.

    The library quantizes before each layer and dequantizes behind it. But the image is an integer already,
    and the maximum of quantized values is the quantized maximum.
    """
    # The inferred types say float for tensors that hold integers from here on.
    del graph.value_info[:]
    # The image enters as uint8, without a conversion.
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    _bypass_node(graph, "QuantizeLinear", "x1")
    # Between two layers the operators move and compare the integers themselves.
    for producer, consumer in SHARED_RANGES.items():
        _bypass_node(graph, "DequantizeLinear", f"{producer}_QuantizeLinear_Output")
        _bypass_node(graph, "QuantizeLinear", consumer)
    # Softmax takes the last layer's sums as floats: rounding them to 8 bits would gain nothing.
    _bypass_node(graph, "QuantizeLinear", "logits")
    _bypass_node(graph, "DequantizeLinear", "logits")
    # Scales and zero points of the removed nodes would stay in the file.
    used = {name for node in graph.node for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _bypass_node(graph: onnx.GraphProto, op_type: str, tensor: str) -> None:
    """Remove the node of type `op_type` that takes `tensor`; what took its output takes `tensor` instead."""
    # There is exactly one such node; anything else is an error here.
    (bypassed,) = (node for node in graph.node if node.op_type == op_type and node.input[0] == tensor)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == bypassed.output[0]:
                node.input[i] = tensor
    graph.node.remove(bypassed)


def measure_ranges(model: onnx.ModelProto, calibration: Calibration, op_types: Sequence[str]) -> TensorsData:
    """Return the range of each tensor's values on the images, which `model` takes as float32."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        onnx.save(model, file)
        calibrator = create_calibrator(
            file,
            op_types,
            str(file.with_name("calibration.onnx")),
            METHODS[calibration.method],
            extra_options={"symmetric": False, "percentile": calibration.percentile},
        )
        with contextlib.redirect_stdout(io.StringIO()):  # The library prints its progress.
            calibrator.collect_data(CalibrationReader(calibration.images.astype(np.float32)))
            ranges: TensorsData = calibrator.compute_data()
    return ranges


class CalibrationReader(CalibrationDataReader):
    """It gives ONNX Runtime's library the images `(N, S, S, 3)` batch by batch."""

    def __init__(self, images: NDArray[np.uint8 | np.float32]) -> None:
        self._batches = iter(np.split(images, range(BATCH_SIZE, len(images), BATCH_SIZE)))

    def get_next(self) -> dict[str, NDArray[np.uint8 | np.float32]]:
        batch = next(self._batches, None)
        # An empty dict tells the library that no batch is left.
        return {} if batch is None else {"images": batch}
