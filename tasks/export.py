"""The stage `export`: the trained network as an ONNX file that runs without this project."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch

from tasks.artifacts import read_classifier, read_splits
from tasks.errors import InputError, RunError
from tasks.files import written_whole

if TYPE_CHECKING:
    from pathlib import Path

    from models.classifier import Classifier
    from tasks.params import Export
    from tasks.tracking import Tracker

DESCRIPTION = (
    "CIFAR-10 classifier. images: uint8 (N, 32, 32, 3), RGB, as decoded; probabilities: float32 (N, 10), in "
    "the order of `classes`. Normalisation is inside."
)


def export(
    splits: Path, weights: Path, onnx_model: Path, options: Export, tracker: Tracker | None = None
) -> dict[str, Any]:
    """Write `onnx_model`, after holding it against PyTorch on validation images.

    Equal weights give equal bytes: the file says what it was made from, not when or where.
    """
    data = read_splits(splits)
    classifier, about = read_classifier(weights)
    model = converted(classifier, options.opset)
    _describe(model, about, weights)
    with written_whole(onnx_model) as partial:
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, partial)
        images = data.val.images[: options.parity_images]
        difference = _largest_difference(classifier, partial, images, options)
    print(f"{onnx_model}: at most {difference:.1e} from PyTorch on {len(images):,} validation images")
    if tracker is not None:
        with tracker.run_of(weights, "export", {"data_md5": about["data_md5"]}) as run:
            run.model(onnx_model, {"opset": options.opset, "max_abs_diff": difference})
    return {"parity_images": len(images), "max_abs_diff": difference}


def converted(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """The classifier as ONNX, of the given operator set, with any number of images at once."""
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
    _strip(model)
    return model


def _strip(model: onnx.ModelProto) -> None:
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


def _describe(model: onnx.ModelProto, about: dict[str, Any], weights: Path) -> None:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made_from = ("dataset", "data_md5", "network", "seed", "epochs", "epoch", "train")
    run = {key: about[key] for key in made_from if key in about} | {"weights_sha256": digest}
    model.producer_name = "cifarflow"
    model.graph.name = "classifier"
    model.graph.doc_string = DESCRIPTION
    onnx.helper.set_model_props(
        model,
        {
            "classes": json.dumps(about["classes"]),
            "mean": json.dumps(about["mean"]),
            "std": json.dumps(about["std"]),
            "run": json.dumps(run, sort_keys=True),
            "license": "MIT",
        },
    )


@torch.inference_mode()
def _largest_difference(classifier: Classifier, file: Path, images: torch.Tensor, options: Export) -> float:
    """How far any probability is from PyTorch's, at each batch size. `RunError` beyond the tolerance."""
    expected = classifier(images).numpy()
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch_size in options.parity_batch_sizes:
        batches = torch.split(images, batch_size)
        actual = np.concatenate([session.run(None, {"images": batch.numpy()})[0] for batch in batches])
        difference = float(np.abs(actual - expected).max())
        others = int((actual.argmax(1) != expected.argmax(1)).sum())
        if others or difference > options.parity_tolerance:
            raise RunError(
                f"ONNX Runtime differs from PyTorch at batch size {batch_size}: {others} of {len(images)} "
                f"classes, probabilities by up to {difference:.1e} (allowed: {options.parity_tolerance:.0e})"
            )
        largest = max(largest, difference)
    return largest
