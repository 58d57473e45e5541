import numpy as np
import pytest
import torch

from models.classifier import Classifier
from models.net import Net
from tasks.network_page.walk import compute_layers, draw_walk, multiply_strongest

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Net(), [0.5] * 3, [0.25] * 3).eval()


def test_compute_layers_ends_where_the_network_does(classifier: Classifier) -> None:
    layers = compute_layers(classifier, IMAGE)
    network = classifier.network
    assert isinstance(network, Net)
    with torch.no_grad():
        expected = network(classifier.normalize(torch.from_numpy(IMAGE)[None]))
        logits = network.fc3(torch.from_numpy(layers["fc2"])[None])
    torch.testing.assert_close(logits, expected)


def test_multiply_strongest_gives_the_largest_value(classifier: Classifier) -> None:
    strongest = multiply_strongest(classifier, IMAGE)
    products = sum(p for group in strongest["groups"] for row in group["cells"] for _, _, p in row)
    assert products + strongest["bias"] == pytest.approx(strongest["z"], abs=1e-5)
    assert strongest["z"] == pytest.approx(float(compute_layers(classifier, IMAGE)["conv1"].max()), abs=1e-5)


def test_draw_walk_has_a_picture_of_every_layer(classifier: Classifier) -> None:
    sheets = draw_walk(classifier, IMAGE)
    assert sheets.keys() == {"filters1", "filters2", "conv1", "pool1", "conv2", "pool2", "fc1", "fc2"}
    assert (sheets["conv1"].width, sheets["conv1"].height) == (3 * 28 + 2, 2 * 28 + 1)
