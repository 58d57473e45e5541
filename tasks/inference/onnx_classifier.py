"""The exported model at work, on ONNX Runtime and NumPy alone: no PyTorch."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasks.workspace.errors import InputError, RunError

BATCH = 256
CPU = "CPUExecutionProvider"
# By default CUDA rounds what it multiplies to 10 bits, which shows in the probabilities.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


@dataclass(frozen=True)
class OnnxClassifier:
    """An ONNX model of this pipeline; `run` is what the file says of the run that made it."""

    session: onnxruntime.InferenceSession
    classes: list[str]
    metadata: dict[str, Any]

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities `(N, 10)` of pictures `(N, 32, 32, 3)`, RGB."""
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return np.concatenate([self.session.run(None, {"images": batch})[0] for batch in batches])

    def top_k(self, probabilities: NDArray[np.float32], count: int) -> list[tuple[str, float]]:
        """The `count` likeliest classes of one picture, from its `(10,)`, likeliest first."""
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.classes[i], float(probabilities[i])) for i in order]

    @property
    def dataset_label(self) -> str:
        """What made the model, in a few words."""
        dataset = self.metadata.get("dataset", "unknown data")
        return f"trained on {'a generated sample, not on CIFAR-10' if dataset == 'sample' else dataset}"


def load_model(file: Path, threads: int = 0) -> OnnxClassifier:
    """`InputError` where the file is no model of this pipeline. With `threads` 0, the runtime chooses."""
    if not file.is_file():
        raise RunError(f"{file} is not there; `cifarflow run` makes a model")
    session = create_session(file, threads)
    about = session.get_modelmeta().custom_metadata_map
    signature = [(value.name, value.type, value.shape[1:]) for value in session.get_inputs()]
    try:
        classes, run = json.loads(about["classes"]), json.loads(about["run"])
        known = signature == [("images", "tensor(uint8)", [32, 32, 3])] and [
            (value.name, value.shape[1:]) for value in session.get_outputs()
        ] == [("probabilities", [len(classes)])]
    except (KeyError, TypeError, json.JSONDecodeError):
        classes, run, known = [], {}, False
    if not known:
        raise InputError(
            f"{file} is a model of another kind: one of this pipeline takes images, uint8 (N, 32, 32, 3), "
            "and gives probabilities with the names of their classes"
        )
    return OnnxClassifier(session, classes, run)


def create_session(file: Path, threads: int = 0, provider: str = CPU) -> onnxruntime.InferenceSession:
    """A session on the file. With `threads` 0, the runtime chooses.

    `InputError` where the file is none that ONNX Runtime can load, or the provider is not at hand: ONNX
    Runtime itself would fall back to the CPU without an error.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise InputError(f"{provider} is not part of this ONNX Runtime, which has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: the rest would stand between the project's own lines
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            file, options, providers=[(provider, PROVIDER_OPTIONS.get(provider, {}))]
        )
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base of their own
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} is no ONNX model that ONNX Runtime can load: {reason}") from None
    if provider not in session.get_providers():
        raise InputError(f"{provider} does not start on this machine; ONNX Runtime's log says why")
    return session


def predict_in_every_configuration(
    file: Path,
    images: NDArray[np.uint8],
    batch_sizes: Sequence[int],
    threads: Sequence[int],
    providers: Sequence[str],
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The probabilities `(N, 10)` of all images by the file, in each way to run it, and that way in words.

    Providers that are not at hand are passed over.
    """
    for provider in providers:
        for count in threads:
            try:
                session = create_session(file, count, provider)
            except InputError:
                if provider == CPU:
                    raise
                continue
            for batch_size in batch_sizes:
                batches = np.split(images, range(batch_size, len(images), batch_size))
                found = np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])
                yield f"batch size {batch_size}, threads {count}, {provider}", found
