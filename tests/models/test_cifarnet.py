import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.cifarnet import Airbench94Net, Airbench96Net, CifarNet, compute_whitening_filters
from models.init import build_model

NETWORKS = [Airbench94Net, Airbench96Net]


def smooth_images(count: int) -> Tensor:
    """Normalized images whose neighboring pixels correlate, as in photographs."""
    rough = torch.randn(count, 3, 8, 8, generator=Generator().manual_seed(1))
    return F.interpolate(rough, size=(32, 32), mode="bilinear") + 0.1 * torch.randn(
        count, 3, 32, 32, generator=Generator().manual_seed(2)
    )


def build(network: type[CifarNet], seed: int = 0) -> CifarNet:
    model = build_model(network, Generator().manual_seed(seed), lambda _: smooth_images(50))
    assert isinstance(model, CifarNet)
    return model


def test_whitening_filters_give_uncorrelated_responses_of_variance_1() -> None:
    images = smooth_images(200)
    responses = (
        F.conv2d(images, compute_whitening_filters(images, 2)[:12]).transpose(0, 1).flatten(1).double()
    )
    covariance = responses @ responses.T / responses.shape[1]  # about zero, as the filters assume
    assert torch.allclose(covariance - covariance.diag().diag(), torch.zeros(12, 12).double(), atol=1e-3)
    assert torch.allclose(covariance.diag(), torch.ones(12).double(), atol=0.1)


def test_whitening_filters_come_with_both_signs() -> None:
    filters = compute_whitening_filters(smooth_images(20), 2)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[:12], -filters[12:])


def test_whitening_layer_is_initialized_from_the_images() -> None:
    whiten = build(Airbench94Net).whiten
    assert torch.equal(whiten.weight, compute_whitening_filters(smooth_images(50), 2))
    assert whiten.bias is not None
    assert not whiten.bias.any()


@pytest.mark.parametrize("network", NETWORKS)
def test_convolutions_start_as_the_identity(network: type[CifarNet]) -> None:
    for block in build(network).blocks:
        assert isinstance(block.convs, nn.ModuleList)
        for convolution in block.convs:
            assert isinstance(convolution, nn.Conv2d)
            inputs = torch.randn(1, convolution.in_channels, 5, 5)
            kept = min(convolution.in_channels, convolution.out_channels)
            assert torch.allclose(convolution(inputs)[:, :kept], inputs[:, :kept], atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_initial_weights_depend_on_the_generator_only(network: type[CifarNet]) -> None:
    torch.manual_seed(1)
    first = build(network).state_dict()
    torch.manual_seed(2)
    assert all(torch.equal(first[name], tensor) for name, tensor in build(network).state_dict().items())
    assert not torch.equal(first["head.weight"], build(network, 1).state_dict()["head.weight"])


def test_initial_weights_are_pytorch_defaults_elsewhere() -> None:
    torch.manual_seed(5)
    expected = Airbench96Net()
    model = build(Airbench96Net, 5)
    for name, module in expected.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            for key, tensor in module.state_dict().items():
                assert torch.equal(tensor, model.get_submodule(name).state_dict()[key])
    # 24 to 128 channels: 24 of the filters are the identity.
    name = "blocks.0.convs.0.weight"
    assert torch.equal(model.get_parameter(name)[24:], expected.get_parameter(name)[24:])
    head = model.get_parameter("head.weight")
    assert torch.allclose(head, expected.head.weight / expected.head.weight.std())


@pytest.mark.parametrize("network", NETWORKS)
def test_whitening_filters_and_scales_are_frozen(network: type[CifarNet]) -> None:
    frozen = {name for name, parameter in build(network).named_parameters() if not parameter.requires_grad}
    scales = {
        f"blocks.{i}.norms.{j}.weight" for i in range(3) for j in range(3 if network is Airbench96Net else 2)
    }
    assert frozen == {"whiten.weight"} | scales


@pytest.mark.parametrize("network", NETWORKS)
def test_forward_matches_the_layers_written_out(network: type[CifarNet]) -> None:
    """Layer after layer, from the keys of the weights."""
    model = build(network).eval()
    for _, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5, generator=Generator().manual_seed(3))
    w = model.state_dict()
    inputs = smooth_images(3)
    x = F.gelu(F.conv2d(inputs, w["whiten.weight"], w["whiten.bias"]))

    def normalize(x: Tensor, name: str) -> Tensor:
        shape = (1, -1, 1, 1)
        mean, variance = w[f"{name}.running_mean"].view(shape), w[f"{name}.running_var"].view(shape)
        return (x - mean) / variance.sqrt() + w[f"{name}.bias"].view(shape)

    for i in range(3):
        x = F.max_pool2d(F.conv2d(x, w[f"blocks.{i}.convs.0.weight"], padding=1), 2)
        x = residual = F.gelu(normalize(x, f"blocks.{i}.norms.0"))
        x = F.conv2d(x, w[f"blocks.{i}.convs.1.weight"], padding=1)
        x = F.gelu(normalize(x, f"blocks.{i}.norms.1"))
        if network is Airbench96Net:
            x = F.conv2d(x, w[f"blocks.{i}.convs.2.weight"], padding=1)
            x = F.gelu(normalize(x, f"blocks.{i}.norms.2") + residual)
    x = x.amax((2, 3))
    logits = x @ w["head.weight"].T / x.shape[1]
    assert torch.allclose(model(inputs), logits, atol=1e-5)
