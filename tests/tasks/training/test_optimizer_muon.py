import copy

import pytest
import torch
from torch import Generator, Tensor, nn

from tasks.training.optimizer import MuonWithAuxSGD, zeropower_via_newtonschulz


def sample_normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8), (1, 12, 12)])
def test_zeropower_has_the_directions_of_the_svd_and_singular_values_near_1(shape: tuple[int, ...]) -> None:
    matrices = sample_normal(*shape) * 1e-3  # the scale does not matter
    u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
    products = u.mT @ zeropower_via_newtonschulz(matrices) @ vt.mT
    diagonal = products.diagonal(dim1=1, dim2=2)
    assert torch.allclose(products - torch.diag_embed(diagonal), torch.zeros_like(products), atol=1e-4)
    large = diagonal[s > 0.2 * s.amax(1, keepdim=True)]
    assert ((large > 0.5) & (large < 1.3)).all()
    assert (diagonal > 0).all()


def test_zeropower_of_zeros_is_zero() -> None:
    assert torch.equal(zeropower_via_newtonschulz(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


def test_zeropower_treats_matrices_independently() -> None:
    matrices = sample_normal(3, 6, 10)
    assert torch.allclose(
        zeropower_via_newtonschulz(matrices)[1:2], zeropower_via_newtonschulz(matrices[1:2]), atol=1e-6
    )


def build_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.Flatten(),
        nn.Linear(8 * 4, 5),
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def take_step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    inputs = torch.randn(6, 3, 8, 8, generator=Generator().manual_seed(seed))
    network(inputs).square().mean().backward()
    optimizer.step()


def test_muon_trains_other_parameters_as_pytorchs_sgd() -> None:
    network, expected = build_network(), build_network()
    settings = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01}
    muon = MuonWithAuxSGD([{"params": list(network.parameters()), **settings}])
    sgd = torch.optim.SGD(expected.parameters(), nesterov=True, **settings)  # type: ignore[arg-type]
    for step in range(4):
        take_step(network, muon, step)
        take_step(expected, sgd, step)
    for actual, parameter in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(actual, parameter, atol=1e-6)


def test_muon_trains_filters_as_written_out() -> None:
    """Momentum, the filters' norm, the orthogonal update: one filter bank after another, as a matrix."""
    network = build_network()
    filters = [parameter for parameter in network.parameters() if parameter.ndim == 4]
    muon = MuonWithAuxSGD([{"params": filters, "lr": 0.2, "momentum": 0.6, "use_muon": True}])
    momenta = [torch.zeros_like(weight) for weight in filters]
    expected = [weight.detach().clone() for weight in filters]
    for step in range(3):
        take_step(network, muon, step)  # the gradients stay until the next one
        for i, weight in enumerate(filters):
            assert weight.grad is not None
            momenta[i] = 0.6 * momenta[i] + weight.grad
            update = weight.grad + 0.6 * momenta[i]
            direction = zeropower_via_newtonschulz(update.contiguous().flatten(1)[None])[0].view_as(update)
            unit = expected[i] * len(weight) ** 0.5 / expected[i].norm()
            expected[i] = unit - 0.2 * direction
    for weight, other in zip(filters, expected, strict=True):
        assert torch.allclose(weight, other, atol=1e-5)


def test_muon_skips_parameters_without_a_gradient() -> None:
    network = build_network()
    bias = network.get_parameter("4.bias")
    before = bias.detach().clone()
    settings = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}
    muon = MuonWithAuxSGD([{"params": list(network.parameters()), **settings}])
    bias.requires_grad = False
    take_step(network, muon, 0)
    assert torch.equal(bias, before)


def test_muon_continues_from_its_state_dict() -> None:
    def build_muon(network: nn.Module) -> MuonWithAuxSGD:
        filters = [parameter for parameter in network.parameters() if parameter.ndim == 4]
        others = [parameter for parameter in network.parameters() if parameter.ndim < 4]
        return MuonWithAuxSGD(
            [
                {"params": filters, "lr": 0.1, "momentum": 0.6, "use_muon": True},
                {"params": others, "lr": 0.1, "momentum": 0.8},
            ]
        )

    network = build_network()
    muon = build_muon(network)
    take_step(network, muon, 0)
    resumed = copy.deepcopy(network)
    resumed_muon = build_muon(resumed)
    resumed_muon.load_state_dict(copy.deepcopy(muon.state_dict()))
    take_step(network, muon, 1)
    take_step(resumed, resumed_muon, 1)
    for parameter, other in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(parameter, other)
