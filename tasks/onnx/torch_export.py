"""PyTorch's exporter: any network as ONNX."""

import warnings

import onnx
import torch

from models.classifier import Classifier
from tasks.workspace.errors import InputError

MIN_EXPORTER_OPSET = 18  # the lowest that PyTorch's exporter writes


def torch_onnx_export(classifier: Classifier, opset: int) -> onnx.ModelProto:
    """What `torch.onnx.export` makes of the classifier, without debug information.

    `InputError` where the exporter fails, or writes another operator set.
    """
    example = torch.zeros(2, classifier.image_size, classifier.image_size, 3, dtype=torch.uint8)
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
    version = model.opset_import[0].version
    if version != opset:
        raise InputError(f"export.opset {opset} is not supported; {version} is")
    _strip_debug_info(model)
    return model


def _strip_debug_info(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: stack traces, with the paths of this machine."""
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
