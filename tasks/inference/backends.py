"""What can run the model, each engine behind one call: pictures in, probabilities out.

Frameworks are imported where an engine is opened: one that is not installed is no error, and `python -m
tasks.engines` measures the memory of one without the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from tasks.inference.onnx_classifier import CPU, create_session
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.classifier import Classifier

Images = NDArray[np.uint8]
Predictor = Callable[[Images], NDArray[np.float32]]
"""uint8 `(N, 32, 32, 3)` to `(N, 10)`"""

ROOT = Path(__file__).resolve().parents[2]
PROVIDER_SUFFIX = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt", "cuda": "cuda"}


class BackendUnavailableError(RunError):
    """The engine, or the provider, is not installed here."""


@dataclass(frozen=True)
class Backend:
    engine: str
    precision: str
    provider: str

    @property
    def name(self) -> str:
        """As in `params.yaml`, with the provider behind it where that is not the CPU."""
        return "-".join(filter(None, [self.engine, self.precision, PROVIDER_SUFFIX.get(self.provider)]))

    def load(self, models: ModelPaths, threads: int) -> Predictor:
        """`NotAtHandError` where it is not installed, another `RunError` where it cannot take the model."""
        return LOADERS[self.engine](self, models, threads)

    def file(self, models: ModelPaths) -> Path:
        return Path({"fp32": models.fp32, "int8": models.int8}[self.precision])


@dataclass(frozen=True)
class ModelPaths:
    """Paths of the same model in the forms that engines take: PyTorch's weights, ONNX in two precisions."""

    weights: str
    fp32: str
    int8: str


def expand_backends(names: Sequence[str], providers: Sequence[str]) -> list[Backend]:
    """Each name of `params.yaml`, ONNX Runtime once a provider, PyTorch once a kind of device."""
    on = {"onnxruntime": providers, "openvino": ["CPU"], "pytorch": ["cpu", "cuda"], "torchscript": ["cpu"]}
    pairs = [name.split("-") for name in names]
    return [Backend(engine, precision, provider) for engine, precision in pairs for provider in on[engine]]


def _onnxruntime(engine: Backend, models: ModelPaths, threads: int) -> Predictor:
    try:
        session = create_session(engine.file(models), threads, engine.provider)
    except InputError as error:
        if engine.provider == CPU:
            raise RunError(str(error)) from None
        raise BackendUnavailableError(str(error)) from None
    inputs, outputs = (
        [(x.name, x.type, x.shape[1:]) for x in xs] for xs in (session.get_inputs(), session.get_outputs())
    )
    if inputs != [("images", "tensor(uint8)", [32, 32, 3])] or outputs != [
        ("probabilities", "tensor(float)", [10])
    ]:
        raise RunError(f"{engine.file(models)} is another network's: it takes {inputs} and gives {outputs}")
    return lambda images: np.asarray(session.run(None, {"images": images})[0])


def _pytorch(engine: Backend, models: ModelPaths, threads: int) -> Predictor:
    """Eager, channels last, which is its fastest order."""
    import torch

    if engine.provider == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("PyTorch finds no CUDA device")
    return _torch_predictor(_load_classifier(models), threads, engine.provider)


def _torchscript(engine: Backend, models: ModelPaths, threads: int) -> Predictor:
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # TorchScript is no longer developed; it needs no compiler, though
        example = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
        traced = torch.jit.trace(_load_classifier(models), example)  # type: ignore[no-untyped-call]
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return _torch_predictor(frozen, threads, engine.provider)


def _load_classifier(models: ModelPaths) -> Classifier:
    import torch

    from tasks.workspace.weights import load_classifier

    classifier, _ = load_classifier(Path(models.weights))
    return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _torch_predictor(module: Any, threads: int, device: str) -> Predictor:
    import torch

    if device != "cpu":
        module = module.to(device)

    def run(images: Images) -> NDArray[np.float32]:
        if torch.get_num_threads() != threads:  # one number for the whole process
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images).to(device)).cpu().numpy())

    return run


def _openvino(engine: Backend, models: ModelPaths, threads: int) -> Predictor:
    if find_spec("openvino") is None:
        raise BackendUnavailableError("OpenVINO is not installed: pip install 'cifarflow[benchmarks]'")
    core: Any = import_module("openvino").Core()
    try:
        compiled = core.compile_model(
            core.read_model(engine.file(models)),
            engine.provider,
            {
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",  # where there is bfloat16 it would take that unasked
            },
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"OpenVINO cannot take {engine.file(models)}: {reason}") from None
    request = compiled.create_infer_request()
    return lambda images: np.asarray(request.infer([images])[0])


LOADERS: dict[str, Callable[[Backend, ModelPaths, int], Predictor]] = {
    "onnxruntime": _onnxruntime,
    "pytorch": _pytorch,
    "torchscript": _torchscript,
    "openvino": _openvino,
}


def measure_rss_mb(engine: Backend, models: ModelPaths, threads: int, batch_size: int) -> float:
    """Memory of a process that has run a batch on the engine and holds nothing else, in 10^6 bytes."""
    task = {"engine": asdict(engine), "models": asdict(models), "threads": threads, "batch_size": batch_size}
    ended = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", "tasks.inference.backends", json.dumps(task)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RunError(
            f"{engine.name} failed in a process of its own: {ended.stderr.strip().splitlines()[-1]}"
        )
    return float(ended.stdout.splitlines()[-1])


def main(task: str) -> None:
    """What `rss_mb` starts."""
    given = json.loads(task)
    run = Backend(**given["engine"]).load(ModelPaths(**given["models"]), given["threads"])
    for _ in range(3):
        run(np.zeros((given["batch_size"], 32, 32, 3), np.uint8))
    print(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    main(sys.argv[1])
