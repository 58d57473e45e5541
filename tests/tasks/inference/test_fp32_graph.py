import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from models.classifier import Classifier
from models.net import Net
from tasks.export import to_onnx, torch_onnx_export
from tasks.inference.fp32_graph import build_fp32_graph
from tasks.workspace.errors import InputError

MEAN, STD = [0.49, 0.48, 0.44], [0.25, 0.24, 0.26]


def classifier(seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(Net(), MEAN, STD).eval()


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_function_as_the_network(seed: int) -> None:
    """In float64 for reference; the weights are enlarged, so that probabilities are far from a tenth each."""
    network = classifier(seed)
    with torch.no_grad():
        network.network.fc3.weight *= 30  # type: ignore[union-attr, operator]
    images = np.random.default_rng(seed).integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    x = (x - network.mean.double()) / network.std.double()
    actual = run(build_fp32_graph(network, 13), images)
    with torch.inference_mode():
        expected = torch.softmax(network.network.double()(x), 1).numpy()
    assert expected.max() > 0.3
    assert np.abs(actual - expected).max() < 1e-5


def test_the_pool_takes_the_maximum_of_all_four() -> None:
    """One bright pixel at each place of a pool's window and beyond: each gives what PyTorch gives."""
    network = classifier(0)
    images = np.zeros((64, 32, 32, 3), dtype=np.uint8)
    for i in range(64):
        images[i, 12 + i // 8, 12 + i % 8] = 255
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    assert len(np.unique(expected, axis=0)) == 64
    assert np.abs(run(build_fp32_graph(network, 13), images) - expected).max() < 1e-6


def test_nothing_is_transposed_and_normalization_is_folded() -> None:
    operators = {node.op_type for node in build_fp32_graph(classifier(0), 13).graph.node}
    assert operators == {
        *("Cast", "Reshape", "Conv", "Relu", "MaxPool", "Slice", "Max", "Flatten", "Gemm", "Softmax")
    }


def test_the_operators_allow_no_lower_opset() -> None:
    onnx.checker.check_model(build_fp32_graph(classifier(0), 13), full_check=True)
    with pytest.raises(InputError, match=r"export\.opset 12 is not possible, but 13 to \d+ are"):
        to_onnx(classifier(0), 12)


def test_another_network_goes_through_pytorchs_exporter() -> None:
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), MEAN, STD).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = other(torch.from_numpy(images)).numpy()
    assert np.abs(run(to_onnx(other, 18), images) - expected).max() < 1e-6
    with pytest.raises(TypeError, match="a graph of Sequential"):
        build_fp32_graph(other, 18)


def test_the_plain_export_is_the_same_function() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    plain = run(torch_onnx_export(classifier(0), 18), images)
    assert np.abs(run(to_onnx(classifier(0), 13), images) - plain).max() < 1e-6
