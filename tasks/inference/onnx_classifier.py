"""Inference with the exported model, with ONNX Runtime and NumPy, without PyTorch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasks.inference.batches import Images, Predictor, Probabilities, predict_in_batches
from tasks.inference.occlusion import Occlusion, occlude
from tasks.workspace.dataset_name import describe_dataset
from tasks.workspace.errors import InputError, RunError

BATCH_SIZE = 256
CPU = "CPUExecutionProvider"
# By default CUDA rounds factors to TF32's 10 bits of mantissa, which shows in the probabilities.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


@dataclass(frozen=True)
class OnnxClassifier:
    """An ONNX model of this pipeline; `metadata` is what the file says of the run that made it."""

    session: onnxruntime.InferenceSession
    classes: list[str]
    metadata: dict[str, Any]

    def predict_proba(self, images: Images) -> Probabilities:
        """Probabilities `(N, classes)` of RGB images `(N, S, S, 3)`, where S is `image_size`."""
        return predict_in_batches(session_predictor(self.session), images, BATCH_SIZE)

    def explain(self, image: NDArray[np.uint8], target: int) -> Occlusion:
        """Which pixels of `image` `(S, S, 3)` speak for the class with the index `target`."""
        return occlude(session_predictor(self.session), image, target, self.mean_color)

    def top_k(self, probabilities: Probabilities, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes of one image, from its `(classes,)`, in descending order."""
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.classes[i], float(probabilities[i])) for i in order]

    @property
    def image_size(self) -> int:
        """Width and height of the images that the model takes, in pixels."""
        return int(self.session.get_inputs()[0].shape[1])

    @property
    def mean_color(self) -> NDArray[np.uint8]:
        """`(3,)`, of the training images; gray where the file does not say."""
        mean = json.loads(self.session.get_modelmeta().custom_metadata_map.get("mean", "[0.5, 0.5, 0.5]"))
        return (255 * np.array(mean)).round().astype(np.uint8)

    @property
    def dataset_label(self) -> str:
        dataset = self.metadata.get("dataset", "unknown data")
        return f"trained on {describe_dataset(dataset)}"


def load_model(file: Path, threads: int = 0) -> OnnxClassifier:
    """`InputError` where the file is not a model of this pipeline. 0 threads: ONNX Runtime chooses."""
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
    """With 0 threads, ONNX Runtime chooses.

    `InputError` where ONNX Runtime cannot load the file, or the provider is not available: ONNX Runtime
    itself would fall back to the CPU without an error.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise InputError(f"{provider} is not part of this ONNX Runtime, which has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings would interrupt the project's own lines
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
    return lambda images: np.asarray(session.run(None, {"images": images})[0])


def find_signature_mismatch(
    session: onnxruntime.InferenceSession, num_classes: int | None = None
) -> str | None:
    """None where the model takes and gives what this pipeline's models do; else what it should and does.

    Without `num_classes`, any number of them is right.
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
