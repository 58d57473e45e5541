"""Load the model with any backend: each becomes one function from images to probabilities.

A framework is imported only when a backend that needs it is loaded. So a framework may be missing, and a
process that runs one of them has none of the others in memory (backend_process.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tasks.inference.onnx_classifier import CPU, create_session, find_signature_mismatch, session_predictor
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.classifier import Classifier
    from tasks.inference.onnx_classifier import Images, Predictor, Probabilities


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
            return OpenVinoPredictor(self.select_file(models), self.provider, threads, batch_sizes)
        return LOADERS[self.framework](self, models, threads)

    def load_offline(self, models: ModelPaths) -> OfflinePredictor | None:
        """Load the model for running several batches at once; None for engines without such a mode."""
        if self.framework == "openvino":
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


class OpenVinoPredictor:
    """A `Predictor` with a compiled model for each of `batch_sizes`, and a slower one for other sizes."""

    def __init__(self, file: Path, device: str, threads: int, batch_sizes: Sequence[int]) -> None:
        def compile_for(batch_size: int | None) -> Any:
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
            return _compile_model(file, device, hints, batch_size).create_infer_request()

        self._requests = {size: compile_for(size) for size in batch_sizes}
        self._inputs = {size: request.get_input_tensor().data for size, request in self._requests.items()}
        self._dynamic = compile_for(None)

    def __call__(self, images: Images) -> Probabilities:
        request = self._requests.get(len(images))
        if request is None:
            return np.array(self._dynamic.infer([images])[0])
        self._inputs[len(images)][:] = images
        request.infer()
        return np.array(request.get_output_tensor().data)


class OpenVinoOfflinePredictor:
    """An `OfflinePredictor` with as many requests at once as OpenVINO finds best for the device."""

    def __init__(self, file: Path, device: str) -> None:
        self._file, self._device = file, device
        self._queues: dict[int, Any] = {}
        compiled = _compile_model(file, device, {"PERFORMANCE_HINT": "THROUGHPUT"}, None)
        self.requests = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def __call__(self, batches: Sequence[Images]) -> list[Probabilities]:
        """Predict all batches, which have one size; return the probabilities of each."""
        queue = self._queue(len(batches[0]))
        results: list[Any] = [None] * len(batches)

        def store(request: Any, index: int) -> None:
            results[index] = np.array(request.get_output_tensor().data)

        queue.set_callback(store)
        for index, batch in enumerate(batches):
            queue.start_async(batch, index, share_inputs=True)
        queue.wait_all()
        return results

    def _queue(self, batch_size: int) -> Any:
        if batch_size not in self._queues:
            hints = {"PERFORMANCE_HINT": "THROUGHPUT"}
            compiled = _compile_model(self._file, self._device, hints, batch_size)
            self._queues[batch_size] = import_module("openvino").AsyncInferQueue(compiled, self.requests)
        return self._queues[batch_size]


def _compile_model(file: Path, device: str, hints: dict[str, Any], batch_size: int | None) -> Any:
    """Compile the model for one batch size, or for any where `batch_size` is None.

    `BackendUnavailableError` where OpenVINO is not installed, `RunError` where it cannot load the file.
    """
    if find_spec("openvino") is None:
        raise BackendUnavailableError("OpenVINO is not installed: pip install 'cifarflow[benchmarks]'")
    core: Any = import_module("openvino").Core()
    # By default OpenVINO computes in bfloat16 where the CPU supports it.
    properties = hints | {"INFERENCE_PRECISION_HINT": "f32"}
    try:
        model = core.read_model(file)
        if batch_size is not None:
            model.reshape([batch_size, *list(model.input().partial_shape)[1:]])
        return core.compile_model(model, device, properties)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"{file} cannot be loaded by OpenVINO: {reason}") from None
