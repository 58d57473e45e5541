from pathlib import Path

import pytest
import torch

from models.net import Net
from tasks.workspace.errors import RunError
from tasks.workspace.splits import save_tensors
from tasks.workspace.weights import load_classifier, load_network
from tests.brightness import METADATA

STATE = Net().state_dict()


def test_load_network_gives_the_network_in_eval_mode(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", STATE, METADATA | {"network": "net"})
    network, metadata = load_network(tmp_path / "w")
    assert isinstance(network, Net)
    assert not network.training
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in STATE.items())
    assert metadata["classes"] == METADATA["classes"]


def test_load_network_rejects_other_weights(tmp_path: Path) -> None:
    tensors = STATE | {"fc3.weight": torch.zeros(11, 84)}
    save_tensors(tmp_path / "w", tensors, METADATA | {"network": "net"})
    with pytest.raises(RunError, match=r"does not hold the weights of 'net'.*fc3\.weight"):
        load_network(tmp_path / "w")


def test_load_network_rejects_an_unknown_network(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", STATE, METADATA | {"network": "resnet"})
    with pytest.raises(RunError, match="contains an unknown network: 'resnet'"):
        load_network(tmp_path / "w")


def test_load_network_rejects_a_truncated_file(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", STATE, METADATA | {"network": "net"})
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:1000])
    with pytest.raises(RunError, match="is corrupt"):
        load_network(tmp_path / "w")


def test_load_classifier_takes_tta_from_the_training_parameters(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", STATE, METADATA | {"network": "net", "train": {"tta": "flip"}})
    classifier, _ = load_classifier(tmp_path / "w")
    assert classifier.tta == "flip"
    assert not classifier.training
    assert classifier.mean.flatten().tolist() == METADATA["mean"]
