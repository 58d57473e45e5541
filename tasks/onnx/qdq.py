"""Static quantization in ONNX's QDQ form: a `QuantizeLinear` and a `DequantizeLinear` around each operator.

By ONNX Runtime's own library: activations in uint8, weights in int8 with one scale per channel.
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

QUANTIZED_OPS = ["Conv", "Gemm", "Relu"]  # what computes; the operators between only move and compare


def quantize_custom_graph(
    model: onnx.ModelProto, calibration: Calibration, weight_bits: int
) -> onnx.ModelProto:
    """What `build_int8_graph` makes, in integers from the image to the last layer's sums."""
    ranges = measure_ranges(model, calibration, QUANTIZED_OPS)
    for producer, consumer in SHARED_RANGES.items():
        ranges[producer] = ranges[consumer]
    identity = {"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel=True,
        reduce_range=weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=QUANTIZED_OPS,
        extra_options={
            "TensorQuantOverrides": {"x1": [identity]},  # the image is uint8 already
            "QDQOpTypePerChannelSupportToAxis": {"Gemm": 1},
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _remove_redundant_qdq(quantized.graph)
    return quantized


def quantize_static_qdq(onnx_model: Path, calibration: Calibration, weight_bits: int) -> onnx.ModelProto:
    """The file with its convolutions and dense layers in int8, by `quantize_static`."""
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
    """To prepare the graph, which the stage `export` has done."""

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
    the maximum of integers is the integer of the maximum, and Softmax takes the sums as they are.
    """
    del graph.value_info[:]  # the types that the tensors had as floats
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    _bypass_node(graph, "QuantizeLinear", "x1")
    for producer, consumer in SHARED_RANGES.items():
        _bypass_node(graph, "DequantizeLinear", f"{producer}_QuantizeLinear_Output")
        _bypass_node(graph, "QuantizeLinear", consumer)
    _bypass_node(graph, "QuantizeLinear", "logits")
    _bypass_node(graph, "DequantizeLinear", "logits")
    used = {name for node in graph.node for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _bypass_node(graph: onnx.GraphProto, op_type: str, tensor: str) -> None:
    """Remove the node of that type that takes the tensor; consumers of its output take the tensor."""
    (bypassed,) = (node for node in graph.node if node.op_type == op_type and node.input[0] == tensor)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == bypassed.output[0]:
                node.input[i] = tensor
    graph.node.remove(bypassed)
