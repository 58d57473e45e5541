import pytest
import torch
from torch import Generator, nn
from torchvision.ops import StochasticDepth

from models.net import Net
from tasks.training.network import (
    check_last_batch,
    freeze,
    has_dropout,
    initialize_network,
    set_train_mode,
)
from tasks.workspace.errors import InputError
from tests.brightness import build_config

IMAGES = torch.rand(4, 3, 32, 32)
CPU = torch.device("cpu")


def test_freeze_stops_the_gradients_of_what_it_names_alone() -> None:
    network = Net()
    freeze(network, ["conv1", "fc3.bias"])
    network(IMAGES).sum().backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {"conv1.weight", "conv1.bias", "fc3.bias"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv"], "no 'conv'; its modules are conv1, conv2, fc1"),
        (["conv1", "conv2", "fc1", "fc2", "fc3"], "leaves no parameter"),
    ],
)
def test_freeze_of_unknown_or_all_names_is_an_input_error(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        freeze(Net(), names)


def test_set_train_mode_keeps_the_statistics_of_frozen_batch_norm() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    freeze(network, ["0"])
    set_train_mode(network)
    network(IMAGES + 5)
    means = network.state_dict()
    assert torch.equal(means["0.running_mean"], torch.zeros(3))
    assert not torch.equal(means["1.running_mean"], torch.zeros(3))


@pytest.mark.parametrize(
    ("network", "expected"),
    [(nn.Linear(2, 2), False), (nn.Sequential(nn.Dropout(0.1)), True), (StochasticDepth(0.1, "row"), True)],
)
def test_has_dropout_finds_layers_that_draw(network: nn.Module, *, expected: bool) -> None:
    assert has_dropout(network) is expected


def test_check_last_batch_of_one_image_is_an_input_error_for_torchvisions_networks() -> None:
    check_last_batch(build_config(network="net", batch_size=4), 9)
    check_last_batch(build_config(network="resnet18", batch_size=4), 10)
    with pytest.raises(InputError, match="last batch of one"):
        check_last_batch(build_config(network="resnet18", batch_size=4), 9)


def test_initialize_network_of_too_small_images_is_an_input_error() -> None:
    with pytest.raises(InputError, match="net: images must have at least 16 x 16 pixels; they have 12 x 12"):
        initialize_network(build_config(), 10, IMAGES[:, :, :12, :12], Generator())
    with pytest.raises(InputError, match="cutout_size is too large"):
        initialize_network(build_config(cutout_size=17), 10, IMAGES[:, :, :16, :16], Generator())
