"""The stage `quantize` converts the exported model to int8, in a file of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.inference.onnx_classifier import load_model
from tasks.onnx.graph import check_file, save_onnx_model
from tasks.onnx.qdq import Calibration, quantize_graph, sample_images
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write, hash_file
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.params import ExportConfig, QuantizeConfig
    from tasks.tracking import Tracker

# If the two highest probabilities differ by less than this, either class counts as right: with another batch
# size, floats between two int8 layers are rounded differently, and may become another integer. A temperature
# below 1 widens all differences.
TIE_MARGIN = 0.02


def quantize(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    int8_model: Path,
    export: ExportConfig,
    config: QuantizeConfig,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write `int8_model`, once the file itself predicts the same in each configuration of `export.parity_…`.

    The network is that of `weights`, the metadata that of `onnx_model`; the ranges of the activations are
    measured on training images. Equal weights, images and config give equal bytes. `RunError` if the class of
    a test image depends on the configuration, ties within `TIE_MARGIN` aside, or if `onnx_model` was exported
    from other weights.
    """
    data = load_splits(splits)
    classifier, metadata = load_classifier(weights)
    exported = load_model(onnx_model)
    if exported.metadata.get("weights_sha256") != hash_file(weights, "sha256"):
        raise RunError(f"{onnx_model} was not exported from {weights}; run the export stage first")
    sample = sample_images(data.train.images.numpy(), config.calibration_images, config.seed)
    calibration = Calibration(sample, config.method, config.percentile)
    model = quantize_graph(classifier, onnx_model, export.opset, calibration, config.weight_bits)
    properties = exported.session.get_modelmeta().custom_metadata_map | {
        "precision": "int8",
        "calibration": json.dumps(_describe_calibration(calibration, config.seed)),
    }
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    expected = exported.predict_proba(images)
    title = f"{exported.project['name'] or metadata['dataset']} classifier in 8-bit integers"
    with atomic_write(int8_model) as temp_path:
        # The file is written twice, since its metadata holds the accuracy of the file itself.
        save_onnx_model(model, temp_path, title, properties)
        actual = load_model(temp_path).predict_proba(images)
        accuracies = {
            "test_accuracy": float((actual.argmax(1) == labels).mean()),
            "fp32_test_accuracy": float((expected.argmax(1) == labels).mean()),
        }
        properties |= {name: json.dumps(accuracy) for name, accuracy in accuracies.items()}
        save_onnx_model(model, temp_path, title, dict(sorted(properties.items())))
        failure = "int8 predictions differ between configurations"
        tie_margin = TIE_MARGIN / min(1.0, classifier.temperature)
        check_file(temp_path, images, actual, export, failure, tie_margin=tie_margin)
    metrics = accuracies | {
        "argmax_agreement": float((actual.argmax(1) == expected.argmax(1)).mean()),
        "max_abs_diff": float(np.abs(actual - expected).max()),
    }
    _print_summary(int8_model, metrics, config.max_accuracy_drop)
    if tracker is not None:
        with tracker.resume_run(weights, "quantize", {"data_md5": metadata["data_md5"]}) as run:
            run.log_model(int8_model, {"precision": "int8", **metrics}, "image-classifier-int8")
    return metrics


def _describe_calibration(calibration: Calibration, seed: int) -> dict[str, Any]:
    description = {
        "images": len(calibration.images),
        "of": "train",
        "seed": seed,
        "method": calibration.method,
    }
    if calibration.method == "percentile":
        description["percentile"] = calibration.percentile
    return description


def _print_summary(int8_model: Path, metrics: dict[str, float], max_accuracy_drop: float) -> None:
    print(
        f"{int8_model}: accuracy {metrics['test_accuracy']:.2%} (fp32 {metrics['fp32_test_accuracy']:.2%}), "
        f"{metrics['argmax_agreement']:.2%} of the classes agree, "
        f"max abs difference {metrics['max_abs_diff']:.2f}"
    )
    drop = metrics["fp32_test_accuracy"] - metrics["test_accuracy"]
    if drop > max_accuracy_drop:
        print(
            f"warning: {int8_model} loses {100 * drop:.2f} points of accuracy, more than the "
            f"{100 * max_accuracy_drop:.2f} of quantize.max_accuracy_drop"
        )
