from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from models.net import Net
from models.torchvision_networks import build_torchvision_network
from tasks.training.network import find_pretrained, load_pretrained
from tasks.workspace.errors import InputError


def load_state(network: nn.Module, name: str, state: dict[str, Tensor], folder: Path) -> nn.Module:
    torch.save(state, folder / "weights.pt")
    load_pretrained(network, folder / "weights.pt", name)
    return network


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_load_pretrained_takes_every_tensor(tmp_path: Path, kind: str) -> None:
    source, network = Net(), Net()
    file = tmp_path / f"w.{kind}"
    save_file(source.state_dict(), file) if kind == "safetensors" else torch.save(source.state_dict(), file)
    load_pretrained(network, file, "net")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), network.parameters(), strict=True))


def test_load_pretrained_with_other_classes_keeps_the_new_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, network = Net(num_classes=100), Net(num_classes=5)
    head = network.fc3.weight.clone()
    load_state(network, "net", source.state_dict(), tmp_path)
    assert torch.equal(network.fc3.weight, head)
    assert torch.equal(network.fc2.weight, source.fc2.weight)
    assert "initialized anew: fc3.bias, fc3.weight" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_load_pretrained_takes_torchvisions_weights_for_large_images(tmp_path: Path, name: str) -> None:
    source = models.get_model(name, num_classes=1000)
    network = build_torchvision_network(name, 10, 32)
    load_state(network, name, source.state_dict(), tmp_path)
    own, given = network.state_dict(), source.state_dict()
    equal = [key for key in own if own[key].shape == given[key].shape and torch.equal(own[key], given[key])]
    assert len(equal) >= len(own) - 3  # the stem's weights, and weight and bias of the head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc2.weight": torch.zeros(84, 121)}, r"other shapes of fc2\.weight"),
        ({"fc4.weight": torch.zeros(1)}, r"keys that the network lacks: fc4\.weight"),
        ({"fc2.weight": None}, r"lacks fc2\.weight"),
    ],
)
def test_load_pretrained_of_an_unfit_file_names_the_tensors(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state = {key: tensor for key, tensor in (Net().state_dict() | change).items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        load_state(Net(), "net", state, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK"])
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_load_pretrained_of_no_state_dict_is_an_input_error(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    (tmp_path / f"w.{kind}").write_bytes(content)
    with pytest.raises(InputError, match="holds no state dict"):
        load_pretrained(Net(), tmp_path / f"w.{kind}", "net")


def test_load_pretrained_runs_no_code_from_a_pickle(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"fc1.weight": Malicious()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        load_pretrained(Net(), tmp_path / "w.pt", "net")
    assert not (tmp_path / "ran").exists()


def test_find_pretrained_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.weights: .*w\.pt not found"):
        find_pretrained(tmp_path, "w.pt")
