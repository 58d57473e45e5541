"""Compare the exported fp32 model with int8 forms of the same weights in images per second.

    python benchmarks/quantize.py [--rounds 11] [--threads 2]

All run on ONNX Runtime, in interleaved rounds, so that a change of the machine's speed affects all. Ratios
are medians of the rounds' ratios to artifacts/model.onnx. The script needs artifacts/, so run the pipeline
first.
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_static
from throughput import create_session, format_ratio, measure_interleaved

from tasks.inference.onnx_classifier import predict_in_batches, session_predictor
from tasks.onnx.graph import torch_onnx_export
from tasks.onnx.net_fp32 import build_fp32_graph
from tasks.onnx.net_int8 import build_int8_graph
from tasks.onnx.qdq import QUANTIZED_OPS, CalibrationReader
from tasks.params import Params, read_params
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

BATCH_SIZES = (1, 32, 256)
SECONDS = 0.2
CALIBRATION_IMAGES = 1000


def quantize_graph(model: onnx.ModelProto, images: NDArray[np.uint8 | np.float32], **options: Any) -> bytes:
    """Quantize a model with `quantize_static` and one scale per channel."""
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8} | options
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        fp32_model, int8_model = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, fp32_model)
        quantize_static(fp32_model, int8_model, CalibrationReader(images), per_channel=True, **types)
        return int8_model.read_bytes()


def build_variants(params: Params) -> dict[str, tuple[bytes, type[Any]]]:
    """Return ONNX files and the type of the images that each takes, by name."""
    logging.disable()
    classifier, _ = load_classifier(Path(params.paths.weights))
    images = load_splits(Path(params.paths.splits)).train.images.numpy()[:CALIBRATION_IMAGES]
    floats = images.astype(np.float32)
    exporter, fp32 = torch_onnx_export(classifier, 18), build_fp32_graph(classifier, 13)
    int8, dense_too = build_int8_graph(classifier, 13), {"op_types_to_quantize": QUANTIZED_OPS}
    convolutions = {"op_types_to_quantize": ["Conv", "Relu"]}
    int8_activations = dense_too | {"activation_type": QuantType.QInt8}
    uint8_weights = dense_too | {"weight_type": QuantType.QUInt8}
    return {
        "fp32 model": (Path(params.paths.onnx_model).read_bytes(), np.uint8),
        "int8 model": (Path(params.paths.int8_model).read_bytes(), np.uint8),
        "exporter's graph, quantized": (quantize_graph(exporter, images), np.uint8),
        "fp32 graph, quantized": (quantize_graph(fp32, images), np.uint8),
        "int8 graph, quantized": (quantize_graph(int8, floats, **dense_too), np.float32),
        "… int8 activations": (quantize_graph(int8, floats, **int8_activations), np.float32),
        "… uint8 weights": (quantize_graph(int8, floats, **uint8_weights), np.float32),
        "… fp32 dense layers": (quantize_graph(int8, floats, **convolutions), np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    params = read_params(Path("params.yaml"))
    test = load_splits(Path(params.paths.splits)).test
    images, labels = test.images.numpy(), test.labels.numpy()
    predictors = {
        name: (session_predictor(create_session(model, arguments.threads)), image_type)
        for name, (model, image_type) in build_variants(params).items()
    }
    print(f"load average {os.getloadavg()[0]:.1f}, threads {arguments.threads}, {arguments.rounds} rounds")
    for name, (predict, image_type) in predictors.items():
        predicted = predict_in_batches(predict, images.astype(image_type), 1000).argmax(1)
        print(f"{name:30} test accuracy {(predicted == labels).mean():.2%}")
    print(f"{'batch':36} images/s   ratio (lowest to highest)")
    for batch_size in BATCH_SIZES:
        batch = np.ascontiguousarray(images[:batch_size])
        variants = {
            name: (predict, batch.astype(image_type)) for name, (predict, image_type) in predictors.items()
        }
        throughputs = measure_interleaved(variants, SECONDS, arguments.rounds)
        reference = next(iter(throughputs.values()))
        for name, values in throughputs.items():
            ratio = format_ratio(values, reference)
            print(f"{batch_size:5} {name:30} {statistics.median(values):10,.0f}   {ratio}")


if __name__ == "__main__":
    main()
