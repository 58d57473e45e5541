"""`FusedNet` against PyTorch's own operators."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.fused_net import FusedNet, _ConvPoolReLU
from models.net import Net
from tasks.training.compile import find_compiler, load_operators
from tasks.training.torch_settings import num_threads

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


def test_bias_may_be_strided() -> None:
    net, images = build_net(32), make_images(4, 32)
    expected = compute_gradients(FusedNet(net), images)
    for conv in (net.conv1, net.conv2):
        assert conv.bias is not None
        strided = torch.stack([conv.bias.data, torch.full_like(conv.bias, 9.0)], 1)[:, 0]
        conv.bias = torch.nn.Parameter(strided)
        assert not conv.bias.is_contiguous()
    assert all(map(torch.equal, compute_gradients(FusedNet(net), images), expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradient_that_is_not_finite_reaches_what_it_reaches_in_pytorch(value: float) -> None:
    net = build_net(32)
    for conv in (net.conv1, net.conv2):
        assert conv.bias is not None
        found = []
        x = torch.randn(2, conv.in_channels, 20, 20, generator=torch.Generator().manual_seed(2))
        gradient = torch.ones(2, conv.out_channels, 8, 8)
        gradient[1, :, 3, 4] = value
        for function in (fused, lambda *of: F.relu(F.max_pool2d(F.conv2d(*of), 2))):
            x = x.detach().requires_grad_()
            out = function(x, conv.weight, conv.bias)
            found.append(torch.autograd.grad(out, [x, conv.weight, conv.bias], gradient))
        ours, exact = found
        assert not exact[0].isfinite().all()
        for a, b in zip(ours, exact, strict=True):
            assert torch.equal(a.isfinite(), b.isfinite())


def fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _ConvPoolReLU.apply(x, weight, bias)


def test_gradient_of_a_gradient_is_refused() -> None:
    net, images = build_net(32), make_images(4, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(FusedNet(net)(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def make_arguments(channels: int = 3) -> dict[str, Tensor]:
    """Of both operators, as they expect them."""
    out = 6 if channels == 3 else 16

    def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)

    return {
        "x": channels_last(2, channels, 12, 14),
        "weight": channels_last(out, channels, 5, 5),
        "bias": torch.zeros(out),
        "out": channels_last(2, out, 4, 5),
        "argmax": channels_last(2, out, 4, 5, dtype=torch.uint8),
        "x_gradient": channels_last(2, channels, 12, 14),
        "weight_gradient": channels_last(out, channels, 5, 5),
    }


def call_both(arguments: dict[str, Tensor]) -> tuple[str, str]:
    """What the two operators say."""
    a = arguments
    said = []
    for operator, names in (
        (torch.ops.cifarflow.conv_pool_relu, "x weight bias out argmax"),
        (
            torch.ops.cifarflow.conv_pool_relu_backward,
            "x weight out argmax x_gradient weight_gradient bias",
        ),
    ):
        try:
            operator(*(a[name] for name in names.split()))
            said.append("")
        except (RuntimeError, NotImplementedError) as error:
            said.append(str(error))
    return said[0], said[1]


@pytest.mark.parametrize("channels", [3, 6])
def test_operators_take_what_they_expect(channels: int) -> None:
    arguments = make_arguments(channels)
    assert call_both(arguments) == ("", "")
    assert call_both(arguments | {"x_gradient": torch.empty(0)}) == ("", "")
    assert call_both({name: tensor.clone() for name, tensor in arguments.items()}) == ("", "")


def strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "a dimension less": lambda tensor: tensor[0],
    "a dimension more": lambda tensor: tensor[None],
    "an element less": lambda tensor: tensor.flatten()[1:],
    "one less": lambda tensor: tensor[1:],
    "one more": lambda tensor: torch.cat([tensor, tensor[:1]]),
    "none": lambda tensor: tensor[:0],
    "float64": lambda tensor: tensor.double(),
    "int32": lambda tensor: tensor.int(),
    "bfloat16": lambda tensor: tensor.bfloat16(),
    "strided": strided,
    "expanded": lambda tensor: tensor[:1].expand_as(tensor),
    "meta": lambda tensor: tensor.to("meta"),
    "contiguous": lambda tensor: tensor.contiguous() if tensor.ndim == 4 else strided(tensor),
    "transposed": lambda tensor: tensor.mT.contiguous().mT if tensor.ndim == 4 else strided(tensor),
    "a column less": lambda tensor: tensor[..., 1:].clone(memory_format=torch.preserve_format),
    "4 channels": lambda tensor: tensor[:, :1].repeat(1, 4, 1, 1) if tensor.ndim == 4 else tensor[:4],
}


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("name", list(make_arguments()))
def test_operators_refuse_each_argument_that_is_not_as_they_expect(channels: int, name: str) -> None:
    """They would read and write beyond it."""
    arguments = make_arguments(channels)
    for change, apply in CHANGES.items():
        if change == "none" and name == "x_gradient":
            continue  # as where nobody needs it
        forward, backward = call_both(arguments | {name: apply(arguments[name])})
        if name not in {"x_gradient", "weight_gradient"}:
            assert forward, change
        assert backward, change


@pytest.mark.parametrize(("height", "width"), [(5, 20), (20, 5), (1, 1), (0, 0)])
def test_images_that_are_smaller_than_a_filter_are_refused(height: int, width: int) -> None:
    net = build_net(32)
    with pytest.raises(RuntimeError, match=r"at least 6 x 6 pixels|negative dimension"):
        fused(torch.zeros(1, 3, height, width), net.conv1.weight, net.conv1.bias)  # type: ignore[arg-type]
