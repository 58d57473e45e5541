"""Export any network to ONNX with PyTorch's exporter."""

import warnings

import onnx
import torch
from onnx import helper

from models.classifier import Classifier
from tasks.workspace.errors import InputError

# PyTorch's exporter writes opset 18, and has onnxscript convert the model to the others.
EXPORTER_OPSETS = range(18, 26)


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
