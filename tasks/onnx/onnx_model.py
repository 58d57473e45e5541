"""Give a graph's nodes the inputs, outputs and metadata of this project's ONNX files, and write the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tasks.workspace.errors import InputError

MIN_OPSET = 13  # This one brought Softmax over one axis, and DequantizeLinear with one scale per channel.

# The British spelling stays: the text is part of every exported file, and another one would change its bytes.
INTERFACE = (
    "images: uint8 {images}, RGB, as decoded; probabilities: float32 {probabilities}, in "
    "the order of `classes`. Normalisation is inside."
)


def resolve_opset(opset: int | Literal["auto"]) -> int:
    """Return the operator set for graphs of the talk's network; `InputError` where they do not support it."""
    if opset == "auto":
        return MIN_OPSET
    highest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= highest:
        raise InputError(f"export.opset {opset} is not supported; {MIN_OPSET} to {highest} are")
    return opset


def build_onnx_model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, NDArray[np.float32] | NDArray[np.int64]],
    opset: int,
    image_size: int,
    image_type: int = TensorProto.UINT8,
) -> onnx.ModelProto:
    """Build a model of the nodes, from `images` `(N, S, S, 3)` to `probabilities` `(N, classes)`.

    `tensors` has to hold the bias of the last layer, `fc3.bias`: one value per class.
    """
    num_classes = len(tensors["fc3.bias"])
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", image_type, ["N", image_size, image_size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", num_classes])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opset_imports = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=opset_imports, ir_version=helper.find_min_ir_version_for(opset_imports)
    )


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
