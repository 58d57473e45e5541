from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models.classifier import Classifier
from tasks.inference.onnx_classifier import Images
from tasks.onnx.net_int8 import build_int8_graph
from tasks.params import Params
from tasks.workspace.weights import load_classifier


@pytest.fixture
def classifier(small_run: Params) -> Classifier:
    return load_classifier(Path(small_run.paths.weights))[0]


def generate_noise(count: int) -> Images:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "images",
    [
        generate_noise(1),
        generate_noise(9),
        np.zeros((2, 32, 32, 3), np.uint8),
        np.full((2, 32, 32, 3), 255, np.uint8),
    ],
)
def test_int8_graph_equals_network(classifier: Classifier, images: Images) -> None:
    classifier.temperature = 1.7
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    model = build_int8_graph(classifier, 13)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"images": images.astype(np.float32)})
    assert np.abs(actual - expected).max() < 1e-5
