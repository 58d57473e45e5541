import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn

from models.classifier import Classifier
from models.net import Net
from tasks.inference.onnx_classifier import Images, Probabilities
from tasks.onnx.net_fp32 import MIN_OPSET, build_fp32_graph, has_fast_graph, resolve_opset
from tasks.workspace.errors import InputError

MEAN, STD = [0.49, 0.48, 0.44], [0.25, 0.24, 0.26]


def build_classifier(seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(Net(), MEAN, STD).eval()


def run(model: onnx.ModelProto, images: Images) -> Probabilities:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.mark.parametrize(("seed", "temperature"), [(0, 1.0), (1, 1.7), (2, 0.6)])
def test_fp32_graph_equals_network_in_float64(seed: int, temperature: float) -> None:
    """The weights are enlarged, so that probabilities are far from a tenth each."""
    classifier = build_classifier(seed)
    classifier.temperature = temperature
    network = classifier.network
    assert isinstance(network, Net)
    with torch.no_grad():
        network.fc3.weight *= 30
    images = np.random.default_rng(seed).integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    x = (x - classifier.mean.double()) / classifier.std.double()
    actual = run(build_fp32_graph(classifier, 13), images)
    with torch.inference_mode():
        expected = torch.softmax(network.double()(x) / temperature, 1).numpy()
    assert expected.max() > 0.3
    assert np.abs(actual - expected).max() < 1e-5


def test_fp32_graph_pools_the_maximum_of_all_four() -> None:
    """One bright pixel at each place of a pool's window and beyond: each gives what PyTorch gives."""
    classifier = build_classifier(0)
    images = np.zeros((64, 32, 32, 3), dtype=np.uint8)
    for i in range(64):
        images[i, 12 + i // 8, 12 + i % 8] = 255
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    assert len(np.unique(expected, axis=0)) == 64
    assert np.abs(run(build_fp32_graph(classifier, 13), images) - expected).max() < 1e-6


def test_fp32_graph_transposes_nothing_and_folds_normalization() -> None:
    operators = {node.op_type for node in build_fp32_graph(build_classifier(0), 13).graph.node}
    assert operators == {
        *("Cast", "Reshape", "Conv", "Relu", "MaxPool", "Slice", "Max", "Flatten", "Gemm", "Softmax")
    }


def test_fp32_graph_passes_the_checker() -> None:
    onnx.checker.check_model(build_fp32_graph(build_classifier(0), 13), full_check=True)


@pytest.mark.parametrize(("network", "tta", "expected"), [(Net, "none", True), (Net, "flip", False)])
def test_has_fast_graph_only_for_net_without_tta(network: type[nn.Module], tta: str, expected: bool) -> None:
    assert has_fast_graph(Classifier(network(), MEAN, STD, tta)) is expected
    assert not has_fast_graph(Classifier(nn.Identity(), MEAN, STD))


def test_resolve_opset_auto_is_the_lowest() -> None:
    assert resolve_opset("auto") == MIN_OPSET
    assert resolve_opset(17) == 17


@pytest.mark.parametrize("opset", [1, 12, 99])
def test_resolve_opset_out_of_range_raises(opset: int) -> None:
    highest = onnx.defs.onnx_opset_version()
    with pytest.raises(InputError, match=rf"export\.opset {opset} is not supported; 13 to {highest} are"):
        resolve_opset(opset)


def test_min_opset_is_what_the_operators_need() -> None:
    """DequantizeLinear has one scale per channel (attribute `axis`) from 13 on."""
    assert "axis" in onnx.defs.get_schema("DequantizeLinear", MIN_OPSET).attributes
    assert "axis" not in onnx.defs.get_schema("DequantizeLinear", MIN_OPSET - 1).attributes
    assert helper.find_min_ir_version_for([helper.make_opsetid("", MIN_OPSET)]) == 7
