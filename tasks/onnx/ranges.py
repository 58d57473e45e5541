"""Calibration for quantization measures the ranges of a model's activations on training images."""

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator

from tasks.inference.batches import Images

BATCH_SIZE = 250
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True)
class Calibration:
    """The images and the method by which the ranges are measured."""

    images: Images
    method: str
    """a key of `METHODS`"""
    percentile: float
    """the percentage of an activation's values that its range covers, for the method `percentile` alone"""


def sample_images(images: Images, count: int, seed: int) -> Images:
    """Return `count` of the images, or all where there are fewer; the same ones on every machine."""
    # RandomState is the generator whose stream NumPy promises never to change (NEP 19).
    chosen = np.random.RandomState(seed).permutation(len(images))[:count]
    return images[np.sort(chosen)]


def measure_ranges(model: onnx.ModelProto, calibration: Calibration, op_types: Sequence[str]) -> TensorsData:
    """Return the range of each tensor's values on the images, which `model` takes as float32."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        onnx.save(model, file)
        calibrator = create_calibrator(
            file,
            op_types,
            str(file.with_name("calibration.onnx")),
            METHODS[calibration.method],
            extra_options={"symmetric": False, "percentile": calibration.percentile},
        )
        with contextlib.redirect_stdout(io.StringIO()):  # The library prints its progress.
            calibrator.collect_data(CalibrationReader(calibration.images.astype(np.float32)))
            ranges: TensorsData = calibrator.compute_data()
    return ranges


class CalibrationReader(CalibrationDataReader):
    """It gives ONNX Runtime's library the images `(N, S, S, 3)` batch by batch."""

    def __init__(self, images: NDArray[np.uint8 | np.float32]) -> None:
        self._batches = iter(np.split(images, range(BATCH_SIZE, len(images), BATCH_SIZE)))

    def get_next(self) -> dict[str, NDArray[np.uint8 | np.float32]]:
        batch = next(self._batches, None)
        # An empty dict tells the library that no batch is left.
        return {} if batch is None else {"images": batch}
