"""The stage `export`: the trained network as an ONNX file that runs without this project."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import torch

from models.net import Net
from tasks.inference.fp32_graph import build_fp32_graph, resolve_opset
from tasks.inference.onnx_classifier import predict_in_every_configuration
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.classifier import Classifier
    from tasks.params import ExportConfig
    from tasks.tracking import Tracker

    Images = NDArray[np.uint8]
    Probabilities = NDArray[np.float32]

MIN_EXPORTER_OPSET = 18  # the lowest that PyTorch's exporter writes
BATCH_SIZE = 1000  # PyTorch's, when the file is held against it

DESCRIPTION = (
    "CIFAR-10 classifier. images: uint8 (N, 32, 32, 3), RGB, as decoded; probabilities: float32 (N, 10), in "
    "the order of `classes`. Normalization is inside."
)


def export(
    splits: Path, weights: Path, onnx_model: Path, config: ExportConfig, tracker: Tracker | None = None
) -> dict[str, Any]:
    """Write `onnx_model`, after holding the file itself against PyTorch on all test images.

    Equal weights give equal bytes: the file says what it was made from, not when or where.
    """
    data = load_splits(splits)
    classifier, about = load_classifier(weights)
    images, labels = data.test.images, data.test.labels.numpy()
    with torch.inference_mode():
        expected = np.concatenate([classifier(batch).numpy() for batch in torch.split(images, BATCH_SIZE)])
    model = to_onnx(classifier, config.opset)
    _set_metadata(model, about, weights, float((expected.argmax(1) == labels).mean()))
    with atomic_write(onnx_model) as partial:
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, partial)
        difference = _check_parity(partial, images.numpy(), expected, config)
    print(f"{onnx_model}: at most {difference:.1e} from PyTorch on {len(images):,} test images")
    if tracker is not None:
        with tracker.resume_run(weights, "export", {"data_md5": about["data_md5"]}) as run:
            run.log_model(onnx_model, {"opset": config.opset, "max_abs_diff": difference})
    return {"parity_images": len(images), "max_abs_diff": difference}


def to_onnx(classifier: Classifier, opset: int | Literal["auto"] = "auto") -> onnx.ModelProto:
    """The classifier as ONNX for any number of images, of that operator set or of the lowest possible.

    The talk's network has a graph of its own, which is faster than what PyTorch's exporter writes.
    """
    if not isinstance(classifier.network, Net) or classifier.tta != "none":
        return torch_onnx_export(classifier, MIN_EXPORTER_OPSET if opset == "auto" else opset)
    return build_fp32_graph(classifier, resolve_opset(opset))


def torch_onnx_export(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """What PyTorch's exporter makes of any classifier."""
    example = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about PyTorch's own code
            program = torch.onnx.export(
                classifier,
                (example,),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes={"images": {0: "N"}},
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        model: onnx.ModelProto = program.model_proto  # type: ignore[union-attr]
        onnx.checker.check_model(model)
    except Exception as error:
        raise InputError(f"export.opset {opset}: {str(error).splitlines()[0]}") from error
    if model.opset_import[0].version != opset:
        raise InputError(f"export.opset {opset} is not possible, but {model.opset_import[0].version} is")
    _strip_debug_info(model)
    return model


def _strip_debug_info(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes for debugging: stack traces, with the paths of this machine."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


def _set_metadata(model: onnx.ModelProto, about: dict[str, Any], weights: Path, accuracy: float) -> None:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made_from = ("dataset", "data_md5", "network", "seed", "epochs", "epoch", "train")
    run = {key: about[key] for key in made_from if key in about} | {"weights_sha256": digest}
    train = json.dumps(about["train"], sort_keys=True)
    run["params_sha256"] = hashlib.sha256(train.encode()).hexdigest()
    model.producer_name = "cifarflow"
    model.graph.name = "classifier"
    model.graph.doc_string = DESCRIPTION
    onnx.helper.set_model_props(
        model,
        {
            "classes": json.dumps(about["classes"]),
            "mean": json.dumps(about["mean"]),
            "std": json.dumps(about["std"]),
            "input": "images: uint8 (N, 32, 32, 3), RGB, 0 to 255, as decoded",
            "output": "probabilities: float32 (N, 10), in the order of classes",
            "test_accuracy": json.dumps(accuracy),
            "run": json.dumps(run, sort_keys=True),
            "license": "MIT",
        },
    )


def _check_parity(file: Path, images: Images, expected: Probabilities, config: ExportConfig) -> float:
    """How far any probability is from PyTorch's, at each batch size, number of threads and provider at hand.

    `RunError` where a class differs, or a probability by more than the tolerance.
    """
    largest = 0.0
    configurations = predict_in_every_configuration(
        file, images, config.parity_batch_sizes, config.parity_threads, config.parity_providers
    )
    for way, actual in configurations:
        differences = np.nan_to_num(np.abs(actual - expected), nan=np.inf).max(1)
        mismatches = actual.argmax(1) != expected.argmax(1)
        difference = float(differences.max())
        if mismatches.any() or not difference <= config.parity_atol:
            worst = int(np.where(mismatches, 2 + differences, differences).argmax())
            raise RunError(
                f"ONNX Runtime differs from PyTorch at {way}: "
                f"{mismatches.sum()} of {len(images)} classes, probabilities by up to {difference:.1e} "
                f"(allowed: {config.parity_atol:.0e}); worst on test image {worst}"
            )
        largest = max(largest, difference)
    return largest
