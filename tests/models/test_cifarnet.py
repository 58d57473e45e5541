import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.cifarnet import Airbench94Net, Airbench96Net, CifarNet, compute_whitening_filters
from models.init import build_model

NETWORKS = [Airbench94Net, Airbench96Net]


def pictures(count: int) -> Tensor:
    """Normalized, with neighbors that have much in common, as pictures have."""
    rough = torch.randn(count, 3, 8, 8, generator=Generator().manual_seed(1))
    return F.interpolate(rough, size=(32, 32), mode="bilinear") + 0.1 * torch.randn(
        count, 3, 32, 32, generator=Generator().manual_seed(2)
    )


def fresh(network: type[nn.Module], seed: int = 0) -> nn.Module:
    return build_model(network, Generator().manual_seed(seed), pictures(50))


def test_whitened_patches_are_uncorrelated_and_of_variance_1() -> None:
    images = pictures(200)
    responses = (
        F.conv2d(images, compute_whitening_filters(images, 2)[:12]).transpose(0, 1).flatten(1).double()
    )
    covariance = responses @ responses.T / responses.shape[1]  # about zero, as the filters take it
    assert torch.allclose(covariance - covariance.diag().diag(), torch.zeros(12, 12).double(), atol=1e-3)
    assert torch.allclose(covariance.diag(), torch.ones(12).double(), atol=0.1)


def test_each_filter_stands_with_both_signs() -> None:
    filters = compute_whitening_filters(pictures(20), 2)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[:12], -filters[12:])


@pytest.mark.parametrize("network", NETWORKS)
def test_first_convolutions_pass_their_channels_on(network: type[CifarNet]) -> None:
    net = fresh(network)
    for block in net.blocks:
        for convolution in block.convolutions:
            inputs = torch.randn(1, convolution.in_channels, 5, 5)
            kept = min(convolution.in_channels, convolution.out_channels)
            assert torch.allclose(convolution(inputs)[:, :kept], inputs[:, :kept], atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_generator_decides_and_global_state_does_not(network: type[CifarNet]) -> None:
    torch.manual_seed(1)
    first = fresh(network).state_dict()
    torch.manual_seed(2)
    assert all(torch.equal(first[name], tensor) for name, tensor in fresh(network).state_dict().items())
    assert not torch.equal(first["head.weight"], fresh(network, 1).state_dict()["head.weight"])


def test_first_weights_are_pytorchs_own_where_nothing_else_is_said() -> None:
    torch.manual_seed(5)
    theirs = Airbench96Net()
    ours = fresh(Airbench96Net, 5)
    for name, module in theirs.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            for key, tensor in module.state_dict().items():
                assert torch.equal(tensor, ours.get_submodule(name).state_dict()[key])
    convolution = theirs.blocks[0].convolutions[0]  # 24 to 128 channels: 24 of the filters are set
    drawn = ours.get_parameter("blocks.0.convolutions.0.weight")
    assert torch.equal(drawn[24:], convolution.weight[24:])
    head = ours.get_parameter("head.weight")
    assert torch.allclose(head, theirs.head.weight / theirs.head.weight.std())


@pytest.mark.parametrize("network", NETWORKS)
def test_whitening_and_scales_are_not_learned(network: type[CifarNet]) -> None:
    frozen = {name for name, parameter in fresh(network).named_parameters() if not parameter.requires_grad}
    scales = {
        f"blocks.{i}.norms.{j}.weight" for i in range(3) for j in range(3 if network is Airbench96Net else 2)
    }
    assert frozen == {"whitening.weight"} | scales


@pytest.mark.parametrize("network", NETWORKS)
def test_the_forward_pass_written_down(network: type[CifarNet]) -> None:
    """Layer after layer, from the names of the weights."""
    net = fresh(network).eval()
    for _, buffer in net.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5, generator=Generator().manual_seed(3))
    w = net.state_dict()
    inputs = pictures(3)
    x = F.gelu(F.conv2d(inputs, w["whitening.weight"], w["whitening.bias"]))

    def normalized(x: Tensor, name: str) -> Tensor:
        shape = (1, -1, 1, 1)
        mean, variance = w[f"{name}.running_mean"].view(shape), w[f"{name}.running_var"].view(shape)
        return (x - mean) / variance.sqrt() + w[f"{name}.bias"].view(shape)

    for i in range(3):
        x = F.max_pool2d(F.conv2d(x, w[f"blocks.{i}.convolutions.0.weight"], padding=1), 2)
        x = first = F.gelu(normalized(x, f"blocks.{i}.norms.0"))
        x = F.conv2d(x, w[f"blocks.{i}.convolutions.1.weight"], padding=1)
        x = F.gelu(normalized(x, f"blocks.{i}.norms.1"))
        if network is Airbench96Net:
            x = F.conv2d(x, w[f"blocks.{i}.convolutions.2.weight"], padding=1)
            x = F.gelu(normalized(x, f"blocks.{i}.norms.2") + first)
    x = x.amax((2, 3))
    logits = x @ w["head.weight"].T / x.shape[1]
    assert torch.allclose(net(inputs), logits, atol=1e-5)
