"""Quantize models to int8 with ONNX Runtime's own library.

Static quantization in QDQ form puts a `QuantizeLinear` and a `DequantizeLinear` around each operator, which
ONNX Runtime then replaces with an operator on integers. Activations become uint8, and weights int8 with one
scale per channel.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType, quantize_static

from tasks.onnx.net_int8 import SHARED_RANGES
from tasks.onnx.ranges import METHODS, Calibration, CalibrationReader, measure_ranges

QUANTIZED_OPS = ["Conv", "Gemm", "Relu"]  # These compute; the operators between them only move and compare.


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
        per_channel=True,
        # x86 CPUs without VNNI add two products in 16 bits, and saturate unless weights have 7 bits.
        reduce_range=weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
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
    (bypassed,) = (node for node in graph.node if node.op_type == op_type and node.input[0] == tensor)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == bypassed.output[0]:
                node.input[i] = tensor
    graph.node.remove(bypassed)
