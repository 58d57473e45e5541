"""Load the model with any backend: each becomes one function from images to probabilities.

A framework is imported only when a backend that needs it is loaded. So a framework may be missing, and a
process that runs one of them has none of the others in memory (backend_process.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tasks.inference.onnx_classifier import CPU, create_session, find_signature_mismatch, session_predictor
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.classifier import Classifier
    from tasks.inference.batches import Images, Predictor, Probabilities

ALL_BACKENDS = (
    "onnxruntime-fp32",
    "onnxruntime-int8",
    "pytorch-fp32",
    "torchscript-fp32",
    "openvino-fp32",
    "openvino-int8",
)
PROVIDER_SUFFIX = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt", "cuda": "cuda"}


class BackendUnavailableError(RunError):
    """The framework, or the provider, is not installed here."""


class OfflinePredictor(Protocol):
    """A predictor for MLPerf's scenario Offline, in which all images are available at once."""

    requests: int
    """number of requests that run at once"""

    def __call__(self, batches: Sequence[Images]) -> list[Probabilities]: ...


@dataclass(frozen=True)
class Backend:
    """A framework, a precision and a device (ONNX Runtime's execution provider) that can run the model."""

    framework: str
    precision: str
    provider: str

    @property
    def name(self) -> str:
        """Return the name in `params.yaml`, followed by the provider where that is not the CPU."""
        return "-".join(filter(None, [self.framework, self.precision, PROVIDER_SUFFIX.get(self.provider)]))

    @property
    def on_cpu(self) -> bool:
        return self.provider in {CPU, "CPU", "cpu"}

    def load(self, models: ModelPaths, threads: int, batch_sizes: Sequence[int] = ()) -> Predictor:
        """Load the model. An engine may optimize itself for `batch_sizes`, but other sizes work as well.

        `BackendUnavailableError` where the backend is not installed, `RunError` where it cannot load the
        file.
        """
        if self.framework == "openvino":
            from tasks.benchmarking.openvino_backend import OpenVinoPredictor

            return OpenVinoPredictor(self.select_file(models), self.provider, threads, batch_sizes)
        return LOADERS[self.framework](self, models, threads)

    def load_offline(self, models: ModelPaths) -> OfflinePredictor | None:
        """Load the model for running several batches at once; None for engines without such a mode."""
        if self.framework == "openvino":
            from tasks.benchmarking.openvino_backend import OpenVinoOfflinePredictor

            return OpenVinoOfflinePredictor(self.select_file(models), self.provider)
        return None

    def select_file(self, models: ModelPaths) -> Path:
        """Return the file that this backend loads."""
        if self.framework in {"pytorch", "torchscript"}:
            return Path(models.weights)
        return Path({"fp32": models.fp32, "int8": models.int8}[self.precision])


@dataclass(frozen=True)
class ModelPaths:
    """The paths of one model in the forms that backends load: PyTorch's weights, ONNX in two precisions."""

    weights: str
    fp32: str
    int8: str


def expand_backends(names: Sequence[str], providers: Sequence[str]) -> list[Backend]:
    """Expand names of `params.yaml`: ONNX Runtime once per provider, PyTorch once per kind of device."""
    on = {"onnxruntime": providers, "openvino": ["CPU"], "pytorch": ["cpu", "cuda"], "torchscript": ["cpu"]}
    pairs = [name.split("-") for name in names]
    return [
        Backend(framework, precision, provider)
        for framework, precision in pairs
        for provider in on[framework]
    ]


def _load_onnxruntime(backend: Backend, models: ModelPaths, threads: int) -> Predictor:
    file = backend.select_file(models)
    try:
        session = create_session(file, threads, backend.provider)
    except InputError as error:
        if backend.on_cpu:
            raise RunError(str(error)) from None
        raise BackendUnavailableError(str(error)) from None
    mismatch = find_signature_mismatch(session)
    if mismatch:
        raise RunError(f"{file} is not a cifarflow model: {mismatch}")
    return session_predictor(session)


def _load_pytorch(backend: Backend, models: ModelPaths, threads: int) -> Predictor:
    """Load the model in eager mode, with channels last, which is PyTorch's fastest layout."""
    import torch

    if backend.provider == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("PyTorch finds no CUDA device")
    return _torch_predictor(_load_classifier(models), threads, backend.provider)


def _load_torchscript(backend: Backend, models: ModelPaths, threads: int) -> Predictor:
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        classifier = _load_classifier(models)
        warnings.simplefilter("ignore")  # TorchScript warns that it is deprecated, but it needs no compiler.
        example = torch.zeros(2, classifier.image_size, classifier.image_size, 3, dtype=torch.uint8)
        traced = torch.jit.trace(classifier, example)  # type: ignore[no-untyped-call]
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return _torch_predictor(frozen, threads, backend.provider)


def _load_classifier(models: ModelPaths) -> Classifier:
    import torch

    from tasks.workspace.weights import load_classifier

    classifier, _ = load_classifier(Path(models.weights))
    return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _torch_predictor(module: Any, threads: int, device: str) -> Predictor:
    import torch

    if device != "cpu":
        module = module.to(device)

    def predict(images: Images) -> Probabilities:
        if torch.get_num_threads() != threads:  # PyTorch has one number for the whole process.
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images).to(device)).cpu().numpy())

    return predict


LOADERS: dict[str, Callable[[Backend, ModelPaths, int], Predictor]] = {
    "onnxruntime": _load_onnxruntime,
    "pytorch": _load_pytorch,
    "torchscript": _load_torchscript,
}
