"""Build the ONNX graph of any network, write it as one of this project's files, and check its predictions."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
import torch
from onnx import helper

from tasks.inference.onnx_classifier import (
    CPU,
    create_session,
    predict_in_batches,
    session_predictor,
)
from tasks.onnx.net_fp32 import build_fp32_graph, has_fast_graph, resolve_opset
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from models.classifier import Classifier
    from tasks.inference.onnx_classifier import Images, Probabilities
    from tasks.params import ExportConfig


# PyTorch's exporter writes opset 18, and has onnxscript convert the model to the others.
EXPORTER_OPSETS = range(18, 26)

# The British spelling stays: the text is part of every exported file, and another one would change its bytes.
INTERFACE = (
    "images: uint8 {images}, RGB, as decoded; probabilities: float32 {probabilities}, in "
    "the order of `classes`. Normalisation is inside."
)


def build_graph(classifier: Classifier, opset: int | Literal["auto"] = "auto") -> onnx.ModelProto:
    """Build the graph of the classifier for any number of images; `auto` is the lowest opset possible.

    A network with a hand-made graph gets that one, since it is faster than what PyTorch's exporter writes.
    """
    if has_fast_graph(classifier):
        return build_fp32_graph(classifier, resolve_opset(opset))
    return torch_onnx_export(classifier, EXPORTER_OPSETS[0] if opset == "auto" else opset)


def torch_onnx_export(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """Export the classifier with `torch.onnx.export`, without debug information.

    The IR version is the lowest that has the operator set, since older runtimes refuse a higher one.
    `InputError` where the exporter does not write that operator set, or fails.
    """
    if opset not in EXPORTER_OPSETS:
        raise InputError(
            f"export.opset {opset} is not supported for this network; "
            f"{EXPORTER_OPSETS[0]} to {EXPORTER_OPSETS[-1]} are"
        )
    example = torch.zeros(2, classifier.image_size, classifier.image_size, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The exporter warns about PyTorch's own code.
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
        model.ir_version = helper.find_min_ir_version_for(model.opset_import)
        onnx.checker.check_model(model)
    except Exception as error:
        raise InputError(f"export.opset {opset}: {str(error).splitlines()[0]}") from error
    # The exporter leaves the model at opset 18, without an error, where it cannot convert it.
    if model.opset_import[0].version != opset:
        raise InputError(f"export.opset {opset} is not supported for this network; {EXPORTER_OPSETS[0]} is")
    _strip_debug_info(model)
    return model


def _strip_debug_info(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes for debugging: they hold stack traces with the paths of this machine."""
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


def describe_signature(model: onnx.ModelProto) -> dict[str, str]:
    """Return the shape of each input and output by its name, such as `(N, 32, 32, 3)`."""
    shapes = {}
    for value in (*model.graph.input, *model.graph.output):
        dimensions = [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        shapes[value.name] = f"({', '.join(dimensions)})"
    return shapes


def save_onnx_model(model: onnx.ModelProto, file: Path, title: str, metadata: dict[str, str]) -> None:
    """Check the model and write it, with `metadata` as its only properties, in that order."""
    model.producer_name = "cifarflow"
    model.graph.name = "classifier"
    model.graph.doc_string = f"{title}. {INTERFACE.format(**describe_signature(model))}"
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def check_file(
    file: Path,
    images: Images,
    expected: Probabilities,
    config: ExportConfig,
    failure: str,
    *,
    atol: float = math.inf,
    tie_margin: float,
) -> float:
    """Call `check_parity` on what the file predicts in each configuration of `config.parity_…`."""
    predictions = predict_in_every_configuration(
        file, images, config.parity_batch_sizes, config.parity_threads, config.parity_providers
    )
    return check_parity(predictions, expected, failure, atol=atol, tie_margin=tie_margin)


def predict_in_every_configuration(
    file: Path, images: Images, batch_sizes: Sequence[int], threads: Sequence[int], providers: Sequence[str]
) -> Iterator[tuple[str, Probabilities]]:
    """Yield a description of each combination of batch size, threads and provider, and its probabilities.

    Providers that are not available are skipped, except the CPU.
    """
    for provider in providers:
        for num_threads in threads:
            try:
                session = create_session(file, num_threads, provider)
            except InputError:
                if provider == CPU:
                    raise
                continue
            for batch_size in batch_sizes:
                probabilities = predict_in_batches(session_predictor(session), images, batch_size)
                yield f"batch size {batch_size}, threads {num_threads}, {provider}", probabilities


def check_parity(
    predictions: Iterable[tuple[str, Probabilities]],
    expected: Probabilities,
    failure: str,
    *,
    atol: float = math.inf,
    tie_margin: float = 0.0,
) -> float:
    """Return the largest difference between any probability and `expected`, over all configurations.

    `RunError`, whose message begins with `failure`, at the first configuration in which a probability differs
    by more than `atol` or is not finite, or an image gets another class. Another class is accepted only where
    the two highest expected probabilities are less than `tie_margin` apart.
    """
    # Where the two highest expected probabilities are almost equal, rounding decides which of them is higher.
    second, first = np.sort(expected, axis=1)[:, -2:].T
    decisive = first - second >= tie_margin
    largest = 0.0
    for configuration, actual in predictions:
        # One figure per image; a NaN counts as infinitely far away, since a comparison with it is never true.
        differences = np.nan_to_num(np.abs(actual - expected), nan=np.inf).max(1)
        mismatches = (actual.argmax(1) != expected.argmax(1)) & decisive | ~np.isfinite(differences)
        difference = float(differences.max())
        if mismatches.any() or difference > atol:
            # An image with another class is worse than any difference of probabilities, which is at most 1.
            worst = int(np.where(mismatches, 2 + differences, differences).argmax())
            allowed = "" if math.isinf(atol) else f" (allowed: {atol:.0e})"
            raise RunError(
                f"{failure}: at {configuration}, {mismatches.sum()} of {len(expected)} classes differ, "
                f"probabilities by up to {difference:.1e}{allowed}; worst on test image {worst}"
            )
        largest = max(largest, difference)
    return largest
