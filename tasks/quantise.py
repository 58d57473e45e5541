"""The stage `quantise`: the exported model in 8-bit integers."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from tasks.artifacts import read_splits
from tasks.errors import RunError
from tasks.files import written_whole
from tasks.inference import read_model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.params import Quantise
    from tasks.tracking import Tracker


def quantise(
    splits: Path,
    weights: Path,
    onnx_model: Path,
    int8_model: Path,
    options: Quantise,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write `int8_model`: static QDQ of `onnx_model`, calibrated on training images."""
    data = read_splits(splits)
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    model = read_model(onnx_model)
    with weights.open("rb") as file:
        if model.run.get("weights_sha256") != hashlib.file_digest(file, "sha256").hexdigest():
            raise RunError(f"{onnx_model} was not made from {weights}; export has to run first")
    expected = model.classify(images)
    chosen = np.random.RandomState(options.seed).permutation(len(data.train.images))
    calibration = data.train.images.numpy()[np.sort(chosen[: options.calibration_images])]
    with written_whole(int8_model) as partial:
        quantize_static(
            onnx_model,
            partial,
            _Images(calibration),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True},
        )
        quantised = onnx.load(partial)
        onnx.helper.set_model_props(
            quantised,
            {entry.key: entry.value for entry in quantised.metadata_props} | {"precision": "int8"},
        )
        onnx.save(quantised, partial)
        actual = read_model(partial).classify(images)
    accuracy, before = (float((p.argmax(1) == labels).mean()) for p in (actual, expected))
    print(f"{int8_model}: test accuracy {accuracy:.2%}, {before:.2%} in fp32")
    about = {
        "precision": "int8",
        "test_accuracy": accuracy,
        "fp32_test_accuracy": before,
        "argmax_agreement": float((actual.argmax(1) == expected.argmax(1)).mean()),
    }
    if tracker is not None:
        with tracker.run_of(weights, "quantise", {"data_md5": json.dumps(data.about["data_md5"])}) as run:
            run.model(int8_model, about)
    return about


class _Images(CalibrationDataReader):
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(np.array_split(images, max(1, len(images) // 250)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}
