import numpy as np
import pytest
import torch
from torch import nn

from models.classifier import Classifier
from tasks.export import to_onnx
from tasks.onnx.torch_export import torch_onnx_export
from tasks.workspace.errors import InputError
from tests.tasks.onnx.test_net_fp32 import MEAN, STD, build_classifier, run


def test_torch_export_of_another_network_agrees_with_pytorch() -> None:
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), MEAN, STD).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = other(torch.from_numpy(images)).numpy()
    assert np.abs(run(to_onnx(other, 18), images) - expected).max() < 1e-6


def test_torch_export_equals_fp32_graph() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    exported = torch_onnx_export(build_classifier(0), 18)
    assert np.abs(run(to_onnx(build_classifier(0), 13), images) - run(exported, images)).max() < 1e-6
    assert not any(node.doc_string or node.metadata_props for node in exported.graph.node)


def test_to_onnx_below_lowest_opset_raises() -> None:
    with pytest.raises(InputError, match=r"export\.opset 12 is not supported; 13 to \d+ are"):
        to_onnx(build_classifier(0), 12)
