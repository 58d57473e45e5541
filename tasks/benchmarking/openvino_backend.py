"""Run OpenVINO as its documentation recommends for each scenario.

For one request after the other these are the hint LATENCY, static shapes, and an input tensor that is set
once. For all images at once it is the hint THROUGHPUT, with OpenVINO's choice of threads and of requests.
https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference.html
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.benchmarking.backends import BackendUnavailableError
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.inference.batches import Images, Probabilities


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
