"""`FusedNet` against PyTorch's own operators."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.fused_net import FusedNet
from models.net import Net
from tasks.training.fused_operators import find_compiler, load_operators
from tasks.workspace.torch_settings import num_threads

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def operators() -> None:
    load_operators()


def build_net(size: int) -> Net:
    torch.manual_seed(0)
    return Net(image_size=size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_images(count: int, size: int) -> Tensor:
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return images.contiguous(memory_format=torch.channels_last)


def compute_gradients(net: torch.nn.Module, images: Tensor) -> list[Tensor]:
    """Of the parameters, and the logits first."""
    logits = net(images)
    loss = F.cross_entropy(logits, torch.arange(len(images)) % 10)
    return [logits, *torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad])]


@pytest.mark.parametrize(
    ("count", "size"), [(1, 16), (2, 17), (33, 18), (5, 19), (128, 32), (7, 33), (3, 64), (2, 75), (0, 32)]
)
def test_logits_and_gradients_are_those_of_pytorch(count: int, size: int) -> None:
    """In float64; the error is that of PyTorch's own float32, about."""
    net, images = build_net(size), make_images(count, size)
    found = compute_gradients(FusedNet(net), images)
    for ours, exact in zip(
        found, compute_gradients(copy.deepcopy(net).double(), images.double()), strict=True
    ):
        assert ours.shape == exact.shape
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-6)


def test_gradients_are_the_same_bits_again_and_with_any_number_of_threads() -> None:
    net, images = build_net(32), make_images(100, 32)
    net.classify = torch.flatten  # type: ignore[assignment, method-assign]  # whose bits depend on the threads

    def compute(threads: int) -> list[Tensor]:
        with num_threads(threads):
            x = FusedNet(net)(images)
            return [x, *torch.autograd.grad(x.square().sum(), [net.conv1.weight, net.conv2.weight])]

    expected = compute(1)
    for threads in (1, 2, 3):
        assert all(map(torch.equal, compute(threads), expected)), threads


def test_frozen_layers_have_no_gradient() -> None:
    net, images = build_net(32), make_images(4, 32)
    for parameter in net.conv1.parameters():
        parameter.requires_grad_(False)
    for ours, exact in zip(
        compute_gradients(FusedNet(net), images), compute_gradients(net, images), strict=True
    ):
        torch.testing.assert_close(ours, exact)


def test_image_gets_a_gradient_where_it_is_asked_for() -> None:
    images = make_images(4, 32).requires_grad_()
    net = build_net(32)
    (ours,) = torch.autograd.grad(FusedNet(net)(images).sum(), images)
    (exact,) = torch.autograd.grad(net(images).sum(), images)
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_spread_as_in_pytorch(value: float) -> None:
    net, images = build_net(32), make_images(3, 32)
    images[1, :, 20, 20] = value
    ours, exact = FusedNet(net)(images), net(images)
    assert torch.equal(ours.isfinite(), exact.isfinite())
    assert not ours[1].isfinite().all()
    assert ours[[0, 2]].isfinite().all()


def test_of_equal_values_the_first_gets_the_gradient() -> None:
    """As in PyTorch."""
    net = build_net(32)
    images = torch.ones(2, 3, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    (ours,) = torch.autograd.grad(FusedNet(net)(images).sum(), images)
    (exact,) = torch.autograd.grad(net(images).sum(), images)
    torch.testing.assert_close(ours, exact)


def test_images_in_another_memory_format_are_accepted() -> None:
    net, images = build_net(32), make_images(4, 32)
    assert torch.equal(FusedNet(net)(images.contiguous()), FusedNet(net)(images))
