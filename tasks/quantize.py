"""The stage `quantize`: the exported model in 8-bit integers, as a file of its own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator

from models.net import Net
from tasks.inference.fp32_graph import resolve_opset
from tasks.inference.int8_graph import build_int8_graph
from tasks.inference.onnx_classifier import load_model, predict_in_every_configuration
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.params import ExportConfig, QuantizeConfig
    from tasks.tracking import Tracker

    Images = NDArray[np.uint8]
    Probabilities = NDArray[np.float32]

TIE_MARGIN = 0.02  # of the probabilities of the two likeliest classes
BATCH = 250  # pictures at once, while the ranges are measured
QUANTIZED_OPS = ["Conv", "Gemm", "Relu"]  # what computes in integers; what is between only moves and compares
# Each layer's output, and what the next one takes: the same numbers in another order, or the largest of some.
CALIBRATION_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
SHARED_RANGES = {"r1": "x2", "r2": "features"}

DESCRIPTION = (
    "CIFAR-10 classifier in 8-bit integers. images: uint8 (N, 32, 32, 3), RGB, as decoded; probabilities: "
    "float32 (N, 10), in the order of `classes`. Normalization is inside."
)


def quantize(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    int8_model: Path,
    export: ExportConfig,
    config: QuantizeConfig,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write `int8_model`, after trying the file itself on all test images, in each way of `export.parity_…`.

    The network of `weights` and the metadata of `onnx_model`; the ranges of the activations are measured on
    training images. Equal weights, images and config give equal bytes.

    The talk's network has a graph of its own, which is fast in integers; of any other the convolutions and
    dense layers of `onnx_model` are quantized where they stand.
    """
    data = load_splits(splits)
    classifier, about = load_classifier(weights)
    exported = load_model(onnx_model)
    if exported.metadata.get("weights_sha256") != _sha256(weights):
        raise RunError(f"{onnx_model} was not made from {weights}; the stage export has to run first")
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    expected = exported.predict_proba(images)
    drawn = _sample_images(data.train.images.numpy(), config)
    if isinstance(classifier.network, Net) and classifier.tta == "none":
        model = quantize_custom_graph(
            build_int8_graph(classifier, resolve_opset(export.opset)), drawn, config
        )
    else:
        model = quantize_static_qdq(onnx_model, drawn, config)
    calibration = {"images": len(drawn), "of": "train", "seed": config.seed, "method": config.method}
    if config.method == "percentile":
        calibration["percentile"] = config.percentile
    properties = exported.session.get_modelmeta().custom_metadata_map | {
        "precision": "int8",
        "calibration": json.dumps(calibration),
    }
    with atomic_write(int8_model) as partial:
        _save(model, properties, partial)
        actual = load_model(partial).predict_proba(images)
        found = {
            "test_accuracy": float((actual.argmax(1) == labels).mean()),
            "fp32_test_accuracy": float((expected.argmax(1) == labels).mean()),
        }
        _save(model, properties | {name: json.dumps(value) for name, value in found.items()}, partial)
        _check_consistency(partial, images, actual, export)
    found["argmax_agreement"] = float((actual.argmax(1) == expected.argmax(1)).mean())
    found["max_abs_diff"] = float(np.abs(actual - expected).max())
    print(
        f"{int8_model}: accuracy {found['test_accuracy']:.2%}, fp32's {found['fp32_test_accuracy']:.2%}; "
        f"{found['argmax_agreement']:.2%} of the classes agree, probabilities to {found['max_abs_diff']:.2f}"
    )
    loss = found["fp32_test_accuracy"] - found["test_accuracy"]
    if loss > config.max_accuracy_drop:
        print(
            f"{int8_model} loses {100 * loss:.2f} points of accuracy, more than the "
            f"{100 * config.max_accuracy_drop:.2f} of quantize.max_accuracy_drop"
        )
    if tracker is not None:
        with tracker.resume_run(weights, "quantize", {"data_md5": about["data_md5"]}) as run:
            run.log_model(int8_model, {"precision": "int8", **found}, "cifar10-classifier-int8")
    return found


def quantize_custom_graph(model: onnx.ModelProto, images: Images, config: QuantizeConfig) -> onnx.ModelProto:
    """What `byte_graph` makes, in integers from the picture to the last layer's sums.

    The ranges of the activations are those that the images have.
    """
    ranges = _calibrate(model, images, config)
    for producer, consumer in SHARED_RANGES.items():
        ranges[producer] = ranges[consumer]
    one = {"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel=True,
        reduce_range=config.weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=QUANTIZED_OPS,
        extra_options={
            "TensorQuantOverrides": {"x1": [one]},  # the picture is what it is
            "QDQOpTypePerChannelSupportToAxis": {"Gemm": 1},
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    _remove_redundant_qdq(made.graph)
    return made


def quantize_static_qdq(onnx_model: Path, images: Images, config: QuantizeConfig) -> onnx.ModelProto:
    """The file with its convolutions and dense layers in integers, by the library's usual call."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        made = Path(folder, "int8.onnx")
        quantize_static(
            onnx_model,
            made,
            _CalibrationReader(images),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            reduce_range=config.weight_bits == 7,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CALIBRATION_METHODS[config.method],
            extra_options={"CalibTensorRangeSymmetric": False, "CalibPercentile": config.percentile},
        )
        return onnx.load(made)


def _calibrate(model: onnx.ModelProto, images: Images, config: QuantizeConfig) -> TensorsData:
    """By tensor, the range of its values on the images."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        onnx.save(model, file)
        calibrator = create_calibrator(
            file,
            QUANTIZED_OPS,
            str(file.with_name("calibration.onnx")),
            CALIBRATION_METHODS[config.method],
            extra_options={"symmetric": False, "percentile": config.percentile},
        )
        with contextlib.redirect_stdout(io.StringIO()):  # else the library says what it is doing
            calibrator.collect_data(_CalibrationReader(images.astype(np.float32)))
            found: TensorsData = calibrator.compute_data()
    return found


class _CalibrationReader(CalibrationDataReader):
    def __init__(self, images: NDArray[np.uint8 | np.float32]) -> None:
        self._left = iter(np.split(images, range(BATCH, len(images), BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8 | np.float32]]:
        batch = next(self._left, None)
        return {} if batch is None else {"images": batch}  # none: the end


def _remove_redundant_qdq(graph: onnx.GraphProto) -> None:
    """Quantize nothing that is not computed with: what moves and compares integers does so itself.

    The library quantizes before each layer and dequantizes behind it. But the picture is an integer already,
    the maximum of integers is the integer of the maximum, and Softmax takes the sums as they are.
    """
    del graph.value_info[:]  # the types that the tensors had as floats
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    _bypass_node(graph, "QuantizeLinear", "x1")
    for given, taken in SHARED_RANGES.items():
        _bypass_node(graph, "DequantizeLinear", f"{given}_QuantizeLinear_Output")
        _bypass_node(graph, "QuantizeLinear", taken)
    _bypass_node(graph, "QuantizeLinear", "logits")
    _bypass_node(graph, "DequantizeLinear", "logits")
    used = {name for node in graph.node for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _bypass_node(graph: onnx.GraphProto, kind: str, taken: str) -> None:
    """Take out the node of that kind that takes the tensor; who took what it gave takes the tensor."""
    (node,) = (node for node in graph.node if node.op_type == kind and node.input[0] == taken)
    for other in graph.node:
        for i, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[i] = taken
    graph.node.remove(node)


def _sample_images(images: Images, config: QuantizeConfig) -> Images:
    """So many of the images, or all where there are fewer; the same on every machine."""
    # RandomState is the generator whose stream NumPy promises never to change (NEP 19).
    chosen = np.random.RandomState(config.seed).permutation(len(images))[: config.calibration_images]
    return images[np.sort(chosen)]


def _save(model: onnx.ModelProto, properties: dict[str, str], file: Path) -> None:
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "cifarflow", ""
    model.graph.name = "classifier"
    model.graph.doc_string = DESCRIPTION
    onnx.helper.set_model_props(model, dict(sorted(properties.items())))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def _check_consistency(file: Path, images: Images, expected: Probabilities, export: ExportConfig) -> None:
    """`RunError` where a way to run it gives another class than `expected`.

    Either of two classes that are as good as equal is right: what is computed in floats between two layers of
    integers is rounded in another way with another batch size, and a rounded value then is another integer.
    """
    second, first = np.sort(expected, axis=1)[:, -2:].T
    decisive = first - second > TIE_MARGIN
    ways = predict_in_every_configuration(
        file, images, export.parity_batch_sizes, export.parity_threads, export.parity_providers
    )
    for way, actual in ways:
        differences = np.nan_to_num(np.abs(actual - expected), nan=np.inf).max(1)
        others = (actual.argmax(1) != expected.argmax(1)) & decisive | ~np.isfinite(differences)
        if others.any():
            worst = int(np.where(others, differences, -1).argmax())
            raise RunError(
                f"int8 depends on how it is run: at {way}, {others.sum()} of {len(images)} classes are "
                f"others, probabilities differ by up to {differences.max():.1e}; worst on test image {worst}"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
