import copy
from contextlib import nullcontext

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


def check(network: str, size: int, num_images: int, **changes: object) -> None:
    """A training with batches of 4."""
    config = build_config(network=network, batch_size=4, **changes)
    image = torch.rand(1, 3, size, size)
    check_last_batch(
        config, num_images, initialize_network(config, 10, size, lambda _: image, Generator()), image
    )


@pytest.mark.parametrize("network", ["airbench94", "airbench96"])
@pytest.mark.parametrize("size", [9, 12, 16])
def test_last_batch_of_one_image_that_batch_norm_cannot_take_is_an_input_error(
    network: str, size: int
) -> None:
    """The feature map is one pixel."""
    check(network, size, 10)
    with pytest.raises(InputError, match=f"last batch of one of the 9 .* batch normalization of {network}"):
        check(network, size, 9)


@pytest.mark.parametrize(("network", "size"), [("net", 16), ("airbench94", 17), ("resnet18", 32)])
def test_last_batch_of_one_image_is_no_error_elsewhere(network: str, size: int) -> None:
    check(network, size, 9)


@pytest.mark.parametrize("num_images", [9, 10, 11])
def test_last_batch_must_have_an_image_for_each_process(num_images: int) -> None:
    check("airbench94", 32, 12, processes=4)
    with pytest.raises(InputError, match="too few for 4 processes"):
        check("airbench94", 32, num_images, processes=4)


def test_check_of_the_last_batch_changes_neither_network_nor_global_generator() -> None:
    config = build_config(network="airbench94", batch_size=4)
    network = initialize_network(config, 10, 32, lambda _: IMAGES, Generator())
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    check_last_batch(config, 9, network, IMAGES[:1])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("epochs", "is_refused"), [(0, True), (2, True), (3, False)])
def test_freeze_of_all_but_the_whitening_bias_is_an_input_error_if_that_is_frozen_later(
    epochs: int, *, is_refused: bool
) -> None:
    config = build_config(
        network="airbench94", freeze=["blocks", "head"], epochs=3, whiten_bias_epochs=epochs
    )
    with (
        pytest.raises(InputError, match=f"no parameter to train after epoch {epochs}")
        if is_refused
        else (nullcontext())
    ):
        initialize_network(config, 10, 32, lambda _: IMAGES, Generator())


def test_initialize_network_of_too_small_images_is_an_input_error() -> None:
    with pytest.raises(InputError, match="net: images must have at least 16 x 16 pixels; they have 12 x 12"):
        initialize_network(build_config(), 10, 12, lambda _: IMAGES, Generator())
    with pytest.raises(InputError, match="cutout_size is too large"):
        initialize_network(build_config(cutout_size=17), 10, 16, lambda _: IMAGES, Generator())
