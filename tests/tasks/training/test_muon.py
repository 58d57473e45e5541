import copy

import pytest
import torch
from torch import Generator, Tensor, nn

from tasks.training.muon import MuonWithAuxSGD, zeropower_via_newtonschulz


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8), (1, 12, 12)])
def test_directions_are_those_of_the_svd_and_lengths_are_near_1(shape: tuple[int, ...]) -> None:
    matrices = random(*shape) * 1e-3  # the scale does not matter
    u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
    lengths = u.mT @ zeropower_via_newtonschulz(matrices) @ vt.mT
    diagonal = lengths.diagonal(dim1=1, dim2=2)
    assert torch.allclose(lengths - torch.diag_embed(diagonal), torch.zeros_like(lengths), atol=1e-4)
    large = diagonal[s > 0.2 * s.amax(1, keepdim=True)]
    assert ((large > 0.5) & (large < 1.3)).all()
    assert (diagonal > 0).all()


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(zeropower_via_newtonschulz(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


def test_matrices_are_independent() -> None:
    matrices = random(3, 6, 10)
    assert torch.allclose(
        zeropower_via_newtonschulz(matrices)[1:2], zeropower_via_newtonschulz(matrices[1:2]), atol=1e-6
    )


def net() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.Conv2d(8, 8, 3, bias=False),
    ]
    made = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8 * 4, 5))
    return made.to(memory_format=torch.channels_last)


def loss_of(network: nn.Module, step: int) -> Tensor:
    inputs = torch.randn(6, 3, 8, 8, generator=Generator().manual_seed(step))
    return network(inputs).square().mean()


def test_what_is_no_filter_is_trained_as_by_pytorchs_sgd() -> None:
    ours, theirs = net(), net()
    settings = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01}
    muon = MuonWithAuxSGD([{"params": list(ours.parameters()), **settings}])
    sgd = torch.optim.SGD(theirs.parameters(), nesterov=True, **settings)
    for step in range(4):
        for network, optimizer in ((ours, muon), (theirs, sgd)):
            optimizer.zero_grad()
            loss_of(network, step).backward()
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_filters_are_trained_as_written_down() -> None:
    """Momentum, the filters' norm, the orthogonal update: one filter bank after the other, by its matrix."""
    network = net()
    filters = [parameter for parameter in network.parameters() if parameter.ndim == 4]
    muon = MuonWithAuxSGD([{"params": filters, "lr": 0.2, "momentum": 0.6, "orthogonal": True}])
    momenta = [torch.zeros_like(weight) for weight in filters]
    expected = [weight.detach().clone() for weight in filters]
    for step in range(3):
        muon.zero_grad()
        loss_of(network, step).backward()
        for i, weight in enumerate(filters):
            assert weight.grad is not None
            momenta[i] = 0.6 * momenta[i] + weight.grad
            update = weight.grad + 0.6 * momenta[i]
            direction = zeropower_via_newtonschulz(update.contiguous().flatten(1)[None])[0].view_as(update)
            unit = expected[i] * len(weight) ** 0.5 / expected[i].norm()
            expected[i] = unit - 0.2 * direction
        muon.step()
    for weight, other in zip(filters, expected, strict=True):
        assert torch.allclose(weight, other, atol=1e-5)


def test_what_has_no_gradient_stays() -> None:
    network = net()
    bias = network[-1].bias
    before = bias.detach().clone()
    muon = MuonWithAuxSGD(
        [{"params": list(network.parameters()), "lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}]
    )
    bias.requires_grad_(False)
    loss_of(network, 0).backward()
    muon.step()
    assert torch.equal(bias, before)


def test_goes_on_from_its_state() -> None:
    first = net()
    groups = [
        {
            "params": [p for p in first.parameters() if p.ndim == 4],
            "lr": 0.1,
            "momentum": 0.6,
            "orthogonal": True,
        },
        {"params": [p for p in first.parameters() if p.ndim < 4], "lr": 0.1, "momentum": 0.8},
    ]
    muon = MuonWithAuxSGD(groups)

    def step(network: nn.Module, optimizer: MuonWithAuxSGD, number: int) -> None:
        optimizer.zero_grad()
        loss_of(network, number).backward()
        optimizer.step()

    step(first, muon, 0)
    second = copy.deepcopy(first)
    places = [
        [i for i, p in enumerate(first.parameters()) if (p.ndim == 4) is filters] for filters in (True, False)
    ]
    own = list(second.parameters())
    other = MuonWithAuxSGD(
        [{**group, "params": [own[i] for i in of]} for group, of in zip(groups, places, strict=True)]
    )
    other.load_state_dict(copy.deepcopy(muon.state_dict()))
    step(first, muon, 1)
    step(second, other, 1)
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)
