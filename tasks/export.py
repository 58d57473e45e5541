"""The stage `export` writes the trained network as an ONNX file that runs without this project."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from tasks.inference.onnx_classifier import predict_in_batches
from tasks.onnx.graph import build_graph, check_file, describe_signature, save_onnx_model
from tasks.workspace.files import atomic_write, hash_file
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from tasks.inference.onnx_classifier import Images, Probabilities
    from tasks.params import ExportConfig, ProjectConfig
    from tasks.tracking import Tracker

REFERENCE_BATCH_SIZE = 1000
PROVENANCE_KEYS = (
    "dataset",
    "dataset_description",
    "data_md5",
    "network",
    "seed",
    "epochs",
    "epoch",
    "temperature",
    "train",
    "selection",
    "pretrained_sha256",
)


def export(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    config: ExportConfig,
    project: ProjectConfig,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write `onnx_model`, once the file itself agrees with PyTorch on all test images.

    Equal weights give equal bytes: the file says what it was made from, not when or where. `RunError` if a
    predicted class differs, or a probability by more than `config.parity_atol`.
    """
    data = load_splits(splits)
    classifier, metadata = load_classifier(weights)
    images, labels = data.test.images.numpy(), data.test.labels.numpy()

    @torch.inference_mode()
    def predict(batch: Images) -> Probabilities:
        return classifier(torch.from_numpy(batch)).numpy()  # type: ignore[no-any-return]

    expected = predict_in_batches(predict, images, REFERENCE_BATCH_SIZE)
    test_accuracy = float((expected.argmax(1) == labels).mean())
    model = build_graph(classifier, config.opset)
    with atomic_write(onnx_model) as temp_path:
        save_onnx_model(
            model,
            temp_path,
            f"{project.name or metadata['dataset']} classifier",
            _build_metadata(model, metadata, weights, test_accuracy) | _describe_project(project),
        )
        difference = check_file(
            temp_path,
            images,
            expected,
            config,
            "ONNX Runtime differs from PyTorch",
            atol=config.parity_atol,
            tie_margin=2 * config.parity_atol,  # within which rounding decides
        )
    print(f"{onnx_model}: max abs difference from PyTorch {difference:.1e} on {len(images):,} test images")
    if tracker is not None:
        with tracker.resume_run(weights, "export", {"data_md5": metadata["data_md5"]}) as run:
            run.log_model(onnx_model, {"opset": config.opset, "max_abs_diff": difference})
    return {"parity_images": len(images), "max_abs_diff": difference}


def _build_metadata(
    model: onnx.ModelProto, metadata: dict[str, Any], weights: Path, test_accuracy: float
) -> dict[str, str]:
    """Return the metadata of the ONNX file: what it takes and gives, and the run that made it."""
    shapes = describe_signature(model)
    run = {key: metadata[key] for key in PROVENANCE_KEYS if key in metadata}
    run["weights_sha256"] = hash_file(weights, "sha256")
    train = json.dumps(metadata["train"], sort_keys=True)
    run["params_sha256"] = hashlib.sha256(train.encode()).hexdigest()
    return {
        "classes": json.dumps(metadata["classes"]),
        "mean": json.dumps(metadata["mean"]),
        "std": json.dumps(metadata["std"]),
        "input": f"images: uint8 {shapes['images']}, RGB, 0 to 255, as decoded",
        "output": f"probabilities: float32 {shapes['probabilities']}, in the order of classes",
        "test_accuracy": json.dumps(test_accuracy),
        "run": json.dumps(run, sort_keys=True),
    }


def _describe_project(project: ProjectConfig) -> dict[str, str]:
    """Return the metadata's entries for what `params.yaml` says about the project, such as the license."""
    return {key: text for key, text in project.model_dump().items() if text}
