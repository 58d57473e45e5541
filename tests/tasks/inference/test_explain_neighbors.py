from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from models.classifier import Classifier
from models.networks import build_network
from tasks.inference.explain import NeighborIndex
from tasks.onnx.graph import build_graph

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (40, 32, 32, 3), generator=GENERATOR).to(torch.uint8)
LABELS = np.arange(40) % 2


def build_index(network: nn.Module, folder: Path, tta: str = "none") -> NeighborIndex:
    classifier = Classifier(network, [0.5] * 3, [0.25] * 3, tta).eval()
    onnx.save(build_graph(classifier, "auto"), folder / "model.onnx")
    return NeighborIndex(folder / "model.onnx", IMAGES.numpy(), LABELS)


@pytest.mark.parametrize(
    ("name", "last", "tta"), [("net", "fc3", "none"), ("net", "fc3", "flip"), ("airbench94", "head", "none")]
)
def test_features_are_what_the_last_layer_takes(name: str, last: str, tta: str, tmp_path: Path) -> None:
    network = build_network(name, 10, 32).eval()
    taken: list[torch.Tensor] = []
    network.get_submodule(last).register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].detach()))
    views = IMAGES[:3].flip(2) if tta == "flip" else IMAGES[:3]
    network(Classifier(network, [0.5] * 3, [0.25] * 3).normalize(views))
    expected = nn.functional.normalize(taken[0]).numpy()
    taken.clear()
    features = build_index(network, tmp_path, tta).compute_features(IMAGES[:3].numpy())
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_features_of_a_network_without_dense_layer_are_its_logits(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten())
    features = build_index(network, tmp_path).compute_features(IMAGES[:3].numpy())
    with torch.inference_mode():
        logits = network(Classifier(network, [0.5] * 3, [0.25] * 3).normalize(IMAGES[:3]))
    np.testing.assert_allclose(features, nn.functional.normalize(logits).numpy(), atol=1e-5)


def test_find_equals_scikit_learn_and_keeps_to_the_class(tmp_path: Path) -> None:
    index = build_index(build_network("net", 10, 32), tmp_path)
    features = index.compute_features(IMAGES.numpy())
    of_class = np.flatnonzero(LABELS == 1)
    reference = NearestNeighbors(n_neighbors=4, metric="cosine").fit(features[of_class])
    for position in (4, 5):
        found = index.find(IMAGES[position].numpy(), 1, 4)
        expected = reference.kneighbors(features[position : position + 1], return_distance=False)[0]
        assert found == of_class[expected].tolist()
        assert (found[0] == position) == (position in of_class)
