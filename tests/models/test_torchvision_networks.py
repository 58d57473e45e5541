from typing import get_args

import pytest
import torch
from torch import Generator, nn
from torchvision import models

from models.init import build_with_seed
from models.torchvision_networks import build_torchvision_network, stem_parameters
from tasks.params.networks import TorchvisionName

# docs/networks.md says why.
LEFT_OUT = (
    "alexnet",
    "googlenet",
    "inception",
    "maxvit",
    "mnasnet",
    "squeezenet",
    "swin",
    "vit_b_32",
    "vit_h_14",
    "vit_l_32",
)
FAMILIES = (
    *("resnet18", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "shufflenet_v2_x0_5", "convnext_tiny"),
    *("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s"),
    *("regnet_y_400mf", "vgg11_bn", "vit_b_16"),
)
LARGE = ("wide_resnet50_2", "vgg11_bn", "vit_b_16")
"""networks whose random weights take seconds to draw, and are not needed for shapes and gradients"""
RESNET18_CIFAR_PARAMETERS = (
    11_173_962  # torchvision's 11,181,642 with a 3x3 stem instead of 7x7: 3 x 64 x 40 fewer
)


def test_names_are_those_of_torchvision_without_the_ones_left_out() -> None:
    known = [name for name in models.list_models(module=models) if not name.startswith(LEFT_OUT)]
    assert sorted(get_args(TorchvisionName)) == sorted(known)


@pytest.mark.parametrize("name", FAMILIES)
def test_build_torchvision_network_gives_logits_of_small_images_in_training_too(name: str) -> None:
    with torch.device("meta" if name in LARGE else "cpu"):
        network = build_torchvision_network(name, 7, 32)
    if name in LARGE:
        network.to_empty(device="cpu")
        for tensor in network.state_dict().values():
            tensor.fill_(1)
    images = torch.rand(2, 3, 32, 32)
    logits = network(images)
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_resnet18_has_the_stem_of_he_et_al_and_torchvisions_other_layers() -> None:
    network = build_torchvision_network("resnet18", 10, 32)
    assert sum(parameter.numel() for parameter in network.parameters()) == RESNET18_CIFAR_PARAMETERS
    features = nn.Sequential(*list(network.children())[:4])(torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 64, 32, 32)


def test_large_images_get_torchvisions_own_stem() -> None:
    network = build_torchvision_network("resnet18", 10, 96)
    expected = models.resnet18(num_classes=10).state_dict()
    assert {name: tensor.shape for name, tensor in network.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


@pytest.mark.parametrize(("name", "size"), [("resnet18", 31), ("vit_b_16", 34)])
def test_build_torchvision_network_of_unfit_images_raises(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"at least 32|multiple of the patches"):
        build_torchvision_network(name, 10, size)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny", "vgg11"])
def test_stem_parameters_are_all_that_differs_in_shape_from_torchvision(name: str) -> None:
    with torch.device("meta"):
        small = build_torchvision_network(name, 10, 32).state_dict()
        large = models.get_model(name, num_classes=10).state_dict()
    assert small.keys() == large.keys()
    differing = {key for key in small if small[key].shape != large[key].shape}
    assert all(key.startswith(stem_parameters(name)) for key in differing)


def test_build_with_seed_is_reproducible_and_leaves_the_global_generator() -> None:
    def build(seed: int) -> nn.Module:
        generator = Generator().manual_seed(seed)
        return build_with_seed(lambda: build_torchvision_network("mobilenet_v3_small", 10, 32), generator)

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, again, other = build(0), build(0), build(1)
    assert torch.equal(torch.rand(3), expected)
    weights = [network.state_dict()["features.0.0.weight"] for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
