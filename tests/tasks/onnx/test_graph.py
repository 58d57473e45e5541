from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from models.classifier import Classifier
from models.networks import build_network
from tasks.onnx.graph import EXPORTER_OPSETS, build_graph, torch_onnx_export
from tasks.onnx.net_fp32 import MIN_OPSET, has_fast_graph
from tasks.onnx.qdq import Calibration, quantize_static_qdq
from tasks.params.networks import OwnName, list_opsets
from tasks.workspace.errors import InputError
from tests.tasks.onnx.test_net_fp32 import MEAN, STD, build_classifier, run


def test_torch_export_of_another_network_agrees_with_pytorch() -> None:
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), MEAN, STD).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = other(torch.from_numpy(images)).numpy()
    assert np.abs(run(build_graph(other, 18), images) - expected).max() < 1e-6


def test_torch_export_equals_fp32_graph() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    exported = torch_onnx_export(build_classifier(0), 18)
    assert np.abs(run(build_graph(build_classifier(0), 13), images) - run(exported, images)).max() < 1e-6
    assert not any(node.doc_string or node.metadata_props for node in exported.graph.node)


@pytest.mark.parametrize("opset", EXPORTER_OPSETS)
def test_each_opset_of_another_network_agrees_with_pytorch_in_fp32_and_int8(
    tmp_path: Path, opset: int
) -> None:
    """Layers whose operators took other forms from one operator set to another."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 5, 2, padding=2),
        *(nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2), nn.Hardswish()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 10)),
    )
    classifier = Classifier(nn.Sequential(*layers), MEAN, STD, "flip", temperature=0.7).eval()
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    fp32 = torch_onnx_export(classifier, opset)
    onnx.save(fp32, tmp_path / "fp32.onnx")
    int8 = quantize_static_qdq(tmp_path / "fp32.onnx", Calibration(images, "minmax", 99.99), 7)
    for model, atol in ((fp32, 1e-6), (int8, 0.05)):
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        assert model.ir_version == helper.find_min_ir_version_for(model.opset_import)
        assert np.abs(run(model, images) - expected).max() < atol


@pytest.mark.parametrize("opset", [13, 17, 26, 28])
def test_torch_export_of_an_opset_it_does_not_write_raises_one_line(opset: int) -> None:
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), MEAN, STD).eval()
    with pytest.raises(InputError) as caught:
        build_graph(other, opset)
    assert str(caught.value) == f"export.opset {opset} is not supported for this network; 18 to 25 are"


@pytest.mark.parametrize("network", get_args(OwnName))
@pytest.mark.parametrize(("tta", "size"), [("none", 32), ("flip", 32), ("none", 40)])
def test_parameters_allow_the_opsets_of_the_graph(network: str, tta: str, size: int) -> None:
    classifier = Classifier(build_network(network, 10, size), MEAN, STD, tta, size)
    supported = EXPORTER_OPSETS
    if has_fast_graph(classifier):
        supported = range(MIN_OPSET, max(list_opsets("net", "none", 32)) + 1)
    assert list_opsets(network, tta, size) == supported


def test_build_graph_below_lowest_opset_raises() -> None:
    with pytest.raises(InputError, match=r"export\.opset 12 is not supported; 13 to \d+ are"):
        build_graph(build_classifier(0), 12)
