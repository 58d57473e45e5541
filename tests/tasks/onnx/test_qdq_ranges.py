import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.onnx.qdq import Calibration, CalibrationReader, measure_ranges, sample_images


def test_sample_images_are_distinct_in_order_and_depend_on_the_seed() -> None:
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    sampled = sample_images(images, 30, seed=0).ravel()
    assert len(sampled) == 30
    assert (np.diff(sampled.astype(int)) > 0).all()
    assert (sample_images(images, 30, seed=0).ravel() == sampled).all()
    assert (sample_images(images, 30, seed=1).ravel() != sampled).any()
    assert (sample_images(images, 1000, seed=0) == images).all()


def test_calibration_reader_yields_all_images_then_nothing() -> None:
    images = np.arange(501, dtype=np.float32).reshape(501, 1, 1, 1)
    reader = CalibrationReader(images)
    batches = [reader.get_next()["images"] for _ in range(3)]
    assert [len(batch) for batch in batches] == [250, 250, 1]
    assert (np.concatenate(batches) == images).all()
    assert not reader.get_next()


@pytest.mark.parametrize(("method", "highest"), [("minmax", 200.0), ("percentile", 2.0)])
def test_measure_ranges_with_outlier(method: str, highest: float) -> None:
    """Of ReLU's values 199 are between 0 and 2, and one is 200: percentile 99 leaves it out."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("images", "y")]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["y"], "relu")], "g", value[:1], value[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    images = np.append(np.linspace(0, 2, 199), 200).astype(np.uint8)
    ranges = measure_ranges(model, Calibration(images, method, 99.0), ["Relu"])
    assert np.asarray(ranges["y"].range_value[1]).item() == pytest.approx(highest, rel=0.2)
    onnx.checker.check_model(model)
