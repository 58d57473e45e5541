"""Load an exported model and predict with it. This needs ONNX Runtime and NumPy, but not PyTorch."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasks.workspace.errors import InputError, RunError

Images = NDArray[np.uint8]
"""images `(N, S, S, 3)`, RGB"""
Probabilities = NDArray[np.float32]
"""probabilities `(N, classes)`"""
Predictor = Callable[[Images], Probabilities]
"""function from images to probabilities, as each backend provides it"""

BATCH_SIZE = 256
CPU = "CPUExecutionProvider"
# By default CUDA rounds factors to the 10-bit mantissa of TF32, which changes the probabilities visibly.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


@dataclass(frozen=True)
class OnnxClassifier:
    """An ONNX model of this pipeline; `metadata` describes the run that made the file."""

    session: onnxruntime.InferenceSession
    classes: list[str]
    metadata: dict[str, Any]

    def predict_proba(self, images: Images) -> Probabilities:
        """Return probabilities `(N, classes)` of RGB images `(N, S, S, 3)`, where S is `image_size`."""
        return predict_in_batches(session_predictor(self.session), images, BATCH_SIZE)

    def top_k(self, probabilities: Probabilities, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes of one image, from its probabilities `(classes,)`."""
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.classes[i], float(probabilities[i])) for i in order]

    def answer(self, probabilities: Probabilities, confident: float) -> str | None:
        """Return the most probable class of one image, or None if its probability is below `confident`."""
        return self.classes[probabilities.argmax()] if probabilities.max() >= confident else None

    @property
    def image_size(self) -> int:
        """Return the width and height in pixels of the images that the model takes."""
        return int(self.session.get_inputs()[0].shape[1])

    @property
    def mean_color(self) -> NDArray[np.uint8]:
        """Return the mean color `(3,)` of the training images, or gray where the file does not say it."""
        mean = json.loads(self.session.get_modelmeta().custom_metadata_map.get("mean", "[0.5, 0.5, 0.5]"))
        return (255 * np.array(mean)).round().astype(np.uint8)

    @property
    def dataset_label(self) -> str:
        """Return a few words that say which data the model was trained on."""
        if name := self.project["name"]:
            return f"trained on the images of {name}"
        name = self.metadata.get("dataset", "unknown data")
        return f"trained on {self.metadata.get('dataset_description', name)}"

    @property
    def project(self) -> dict[str, str]:
        """Return what the file says about the project that made it; a text may be empty."""
        properties = self.session.get_modelmeta().custom_metadata_map
        return {key: properties.get(key, "") for key in ("name", "description", "license", "owner")}


def load_model(file: Path, threads: int = 0) -> OnnxClassifier:
    """Load a model of this pipeline; `InputError` where the file is none.

    With 0 threads, ONNX Runtime chooses their number.
    """
    if not file.is_file():
        raise RunError(f"{file} not found; create it with `cifarflow run`")
    session = create_session(file, threads)
    properties = session.get_modelmeta().custom_metadata_map
    try:
        classes, metadata = json.loads(properties["classes"]), json.loads(properties["run"])
        mismatch = find_signature_mismatch(session, len(classes))
    except (KeyError, TypeError, json.JSONDecodeError):
        classes, metadata, mismatch = [], {}, "its metadata holds no classes and no run"
    if mismatch:
        raise InputError(f"{file} is not a cifarflow model: {mismatch}")
    return OnnxClassifier(session, classes, metadata)


def create_session(file: Path, threads: int = 0, provider: str = CPU) -> onnxruntime.InferenceSession:
    """Load any ONNX file. With 0 threads, ONNX Runtime chooses their number.

    `InputError` where ONNX Runtime cannot load the file, or the provider is not available: ONNX Runtime
    itself would fall back to the CPU without an error.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise InputError(f"{provider} is not part of this ONNX Runtime, which has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        3  # Only errors are logged: warnings would interrupt the project's own lines.
    )
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            file, options, providers=[(provider, PROVIDER_OPTIONS.get(provider, {}))]
        )
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base of their own
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be loaded by ONNX Runtime: {reason}") from None
    if provider not in session.get_providers():
        raise InputError(f"{provider} failed to initialize; see ONNX Runtime's log")
    return session


def session_predictor(session: onnxruntime.InferenceSession) -> Predictor:
    """Return a function from images to the session's first output."""
    return lambda images: np.asarray(session.run(None, {"images": images})[0])


def predict_in_batches(predict: Predictor, images: Images, batch_size: int) -> Probabilities:
    """Predict all images in batches and return probabilities `(N, classes)`."""
    starts = range(0, len(images), batch_size)
    return np.concatenate([predict(images[start : start + batch_size]) for start in starts])


def select_cyclic_batch(images: Images, start: int, size: int) -> Images:
    """Return `size` images from position `start` on; the first image follows the last."""
    return np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])


def find_signature_mismatch(
    session: onnxruntime.InferenceSession, num_classes: int | None = None
) -> str | None:
    """Compare the model's inputs and outputs with those of this pipeline's models.

    Return None where they are equal, else a description of both. Without `num_classes`, any number of classes
    is accepted.
    """
    inputs, outputs = (
        [(value.name, value.type, value.shape[1:]) for value in values]
        for values in (session.get_inputs(), session.get_outputs())
    )
    match inputs, outputs:
        case (
            [("images", "tensor(uint8)", [int(height), int(width), 3])],
            [("probabilities", "tensor(float)", [int(count)])],
        ) if height == width and num_classes in {None, count}:
            return None
    return (
        f"expected input images, uint8 (N, size, size, 3), and output probabilities, float32 "
        f"(N, {num_classes or 'classes'}); it has {inputs} and {outputs}"
    )
