"""The page computes what PyTorch and ONNX Runtime compute: in Node, on real CIFAR-10."""

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.classifier import Classifier
from models.net import Net
from tasks.inference.onnx_classifier import load_model
from tasks.network_page.page import write_network_page
from tasks.workspace.splits import Split, load_splits
from tasks.workspace.weights import load_classifier
from tests.tasks.network_page.conftest import read_page_inputs

NUM_IMAGES = 1000
RUN_PAGE = Path(__file__).with_name("run_page.cjs")


def run_page(page: Path, command: str, images: NDArray[np.uint8], **arguments: Any) -> Any:
    """Run a command of run_page.cjs on `images` `(N, S, S, 3)`."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node; on Debian: apt-get install nodejs")
    given = {"images": base64.b64encode(images.tobytes()).decode(), **arguments}
    result = subprocess.run(
        [node, RUN_PAGE, page, command], input=json.dumps(given), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_page_is_one_file_under_450_kb(trained: Path) -> None:
    html = (trained / "network.html").read_text(encoding="utf-8")
    assert len(html.encode()) < 450_000
    assert "http://" not in html
    assert "https://" not in html
    assert " src=" in html
    assert "<link " not in html.replace('<link rel="icon" href="data:,">', "")


def test_page_agrees_with_onnx_runtime_on_1000_test_images(trained: Path) -> None:
    images = load_splits(trained / "splits.safetensors").test.images[:NUM_IMAGES].numpy()
    expected = load_model(trained / "model.onnx").predict_proba(images)
    found = np.array(run_page(trained / "network.html", "forward", images))
    assert found.shape == expected.shape == (NUM_IMAGES, 10)
    assert np.abs(found - expected).max() < 1e-3
    assert expected.max(1).std() > 0.1, "the network has learned something"


def test_page_gradients_equal_pytorch(trained: Path) -> None:
    test = load_splits(trained / "splits.safetensors").test
    images, labels = test.images[:20], test.labels[:20]
    found = run_page(trained / "network.html", "gradients", images.numpy(), labels=labels.tolist())
    classifier, _ = load_classifier(trained / "model.safetensors")
    expected = torch.cat([tensor.flatten() for tensor in classifier.network.parameters()])
    assert torch.allclose(torch.tensor(found["theta"]), expected, rtol=2**-16, atol=0)
    _set_parameters(classifier, found["theta"])
    for image, label, result in zip(images, labels, found["results"], strict=True):
        loss, gradient = _gradient_by_autograd(classifier, image, label)
        assert result["loss"] == pytest.approx(loss, abs=1e-3)
        assert np.abs(np.array(result["gradient"]) - gradient).max() < 1e-3
        assert np.abs(gradient).max() > 1e-3


def _set_parameters(classifier: Classifier, theta: list[float]) -> None:
    torch.nn.utils.vector_to_parameters(torch.tensor(theta), classifier.network.parameters())


def _gradient_by_autograd(
    classifier: Classifier, image: torch.Tensor, label: torch.Tensor
) -> tuple[float, NDArray[np.float32]]:
    network = classifier.network
    network.zero_grad()
    loss = F.cross_entropy(network(classifier.normalize(image[None])), label[None])
    loss.backward()
    return loss.item(), torch.cat(
        [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    ).numpy()


def test_learning_converges_with_a_small_rate_and_diverges_with_a_large_one(trained: Path) -> None:
    test = load_splits(trained / "splits.safetensors").test
    arguments = {"labels": test.labels[:10].tolist(), "steps": 6}
    images = test.images[:10].numpy()
    small = run_page(trained / "network.html", "learn", images, alpha=1e-3, **arguments)
    assert small == sorted(small, reverse=True)
    large = run_page(trained / "network.html", "learn", images, alpha=1.0, **arguments)
    assert max(large[1:]) > 10 * large[0]


def test_arithmetic_of_each_value_gives_the_value(trained: Path) -> None:
    images = load_splits(trained / "splits.safetensors").test.images[:1].numpy()
    found = run_page(trained / "network.html", "explain", images)
    counts: dict[str, set[int]] = {}
    for value in found:
        counts.setdefault(value["layer"], set()).add(sum(len(group["cells"]) for group in value["groups"]))
        if value["groups"]:
            products = sum(x * w for group in value["groups"] for x, w in group["cells"])
            sums = sum(group["sum"] for group in value["groups"])
            assert products == pytest.approx(sums, abs=1e-9)
    assert counts == {
        "x": {0},
        "conv1": {75},
        "pool1": {0},
        "conv2": {150},
        "pool2": {0},
        "fc1": {400},
        "fc2": {120},
        "output": {84},
    }


def test_receptive_field_is_where_a_change_of_the_image_changes_the_value(trained: Path) -> None:
    image = load_splits(trained / "splits.safetensors").test.images[0].numpy()
    before = {_key(value): value for value in run_page(trained / "network.html", "explain", image[None])}
    changed = image.copy()
    changed[12:20, 16:24] = 255 - changed[12:20, 16:24]
    after = {_key(value): value for value in run_page(trained / "network.html", "explain", changed[None])}
    moved = [before[key] for key, value in after.items() if value["value"] != before[key]["value"]]
    assert {value["layer"] for value in moved} >= {"x", "conv1", "pool1", "conv2", "pool2", "fc1", "output"}
    for value in moved:
        field = value["field"]
        assert field["top"] < 20
        assert field["top"] + field["rows"] > 12
        assert field["left"] < 24
        assert field["left"] + field["columns"] > 16


def _key(value: dict[str, Any]) -> tuple[Any, ...]:
    return value["layer"], value["channel"], value["row"], value["column"]


def test_page_is_deterministic(trained: Path, tmp_path: Path) -> None:
    write_network_page(read_page_inputs(trained), tmp_path / "network.html", tmp_path / "index.html")
    assert (tmp_path / "network.html").read_bytes() == (trained / "network.html").read_bytes()


def test_class_names_are_no_markup(trained: Path, tmp_path: Path) -> None:
    inputs = read_page_inputs(trained)
    name = "</script><b onload=x>"
    inputs.data.metadata["classes"][0] = name
    write_network_page(inputs, tmp_path / "network.html", tmp_path / "index.html")
    assert "<b onload" not in (tmp_path / "network.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "reason"), [(32, "whose layers are of other kinds"), (128, "too large")])
def test_other_networks_say_why_not(trained: Path, tmp_path: Path, size: int, reason: str) -> None:
    inputs = read_page_inputs(trained)
    network = (
        Net(10, size) if size > 32 else torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    )
    classifier = Classifier(network, [0.5] * 3, [0.25] * 3, image_size=size)
    images = inputs.data.test.images[:20].repeat_interleave(size // 32, 1).repeat_interleave(size // 32, 2)
    test = Split(images, inputs.data.test.labels[:20])
    inputs = replace(
        inputs,
        data=replace(inputs.data, test=test),
        classifier=classifier,
        probabilities=inputs.probabilities[:20],
    )
    write_network_page(inputs, tmp_path / "network.html", tmp_path / "index.html")
    html = (tmp_path / "network.html").read_text(encoding="utf-8")
    assert reason in " ".join(html.split())
    assert "<script" not in html
    assert "Linear" in html
